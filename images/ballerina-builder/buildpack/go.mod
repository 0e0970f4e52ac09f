// The buildpack of the Ballerina builder. A module of its own: what it needs is none of the steps' business.
module github.com/stepwright/stepwright/images/ballerina-builder/buildpack

go 1.26.8

require github.com/buildpacks/libcnb v1.30.0

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/Masterminds/semver/v3 v3.2.1 // indirect
	github.com/onsi/gomega v1.27.8 // indirect
)
