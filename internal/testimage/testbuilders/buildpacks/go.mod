// The buildpacks of the builders for tests. A module of its own: what they need is none of the steps' business.
module github.com/stepwright/stepwright/internal/testimage/testbuilders/buildpacks

go 1.26.8

require (
	github.com/Masterminds/semver/v3 v3.4.0
	github.com/buildpacks/libcnb v1.30.0
)

require (
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/onsi/gomega v1.27.8 // indirect
)
