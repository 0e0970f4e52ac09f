package baseimages

// toolchainsDebian is what Toolchains is made on: all of it but Go.
const toolchainsDebian = "docker.io/stepwright/toolchains-debian:bookworm"

var (
	toolchainPackages = []string{"ca-certificates", "default-jdk-headless", "nodejs", "npm", "python3", "python3-pip"}
	nodePackages      = []string{"ca-certificates", "nodejs", "npm"}
	rootlessPackages  = []string{"ca-certificates", "rootlesskit", "runc", "uidmap"}
	runtimePackages   = []string{"ca-certificates", "default-jre-headless", "nodejs", "python3"}
)

// toolchainsRecipe has the machine's own Go, as the image of Go does: Debian's is older than what today's modules ask
// for.
var toolchainsRecipe = recipe{
	from:    golangRecipe.from,
	base:    toolchainsDebian,
	inputs:  golangRecipe.inputs,
	content: golangRecipe.content,
	config:  golangRecipe.config,
}
