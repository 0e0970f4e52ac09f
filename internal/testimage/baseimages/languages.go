package baseimages

// toolchainsDebian is what Toolchains is made on: all of it but Go.
const toolchainsDebian = "docker.io/stepwright/toolchains-debian:bookworm"

var (
	toolchainPackages = []string{"ca-certificates", "default-jdk-headless", "nodejs", "npm", "python3", "python3-pip"}
	nodePackages      = []string{"ca-certificates", "nodejs", "npm"}
	rootlessPackages  = []string{"ca-certificates", "rootlesskit", "runc", "uidmap"}
	runtimePackages   = []string{"ca-certificates", "default-jre-headless", "nodejs", "python3"}

	// What the image of kind's node is made with upstream, without file systems over the network.
	kindNodePackages = []string{
		"systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod",
		"libseccomp2", "pigz", "bash", "ca-certificates", "curl", "jq", "procps", "e2fsprogs", "socat", "ebtables",
	}
)

// KindCommandsPackages are Debian's packages that the tests of ci/e2e and ci/externalci need where they run.
var KindCommandsPackages = []string{
	"ca-certificates", "curl", "default-jre-headless", "git", "iproute2", "make", "nodejs", "npm", "openssh-client",
	"openssh-server", "podman", "procps", "runc", "uidmap",
}

// toolchainsRecipe has the machine's own Go, as the image of Go does: Debian's is older than what today's modules ask
// for.
var toolchainsRecipe = recipe{
	from:    golangRecipe.from,
	base:    toolchainsDebian,
	inputs:  golangRecipe.inputs,
	content: golangRecipe.content,
	config:  golangRecipe.config,
}
