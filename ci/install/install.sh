#!/bin/sh
# Installs what this machine lacks, and says what and why. Where all is there it is done at once.
#
#   ci/install/install.sh run          for make run
#   ci/install/install.sh test         for make test
#   ci/install/install.sh bench        for make bench
#   ci/install/install.sh images       for make images; part of test
#   ci/install/install.sh images-arm64 for make images on amd64, to have every image for arm64, too
#   ci/install/install.sh cluster      for make cluster-up
#   ci/install/install.sh kind         for make cluster-up CLUSTER=kind without a network, which makes all images here
#   ci/install/install.sh e2e          for make e2e
#   ci/install/install.sh base-images  to make base images from Debian packages; part of test, and of run without a network
#
# Without apt it installs nothing and tells what is missing.
set -eu

# Where Debian keeps tools that an ordinary user's PATH lacks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Each line: a Debian package, the tool or file that shows it is there, and what it is for.
for_run='
git git to serve and to clone the source
runc runc to run the steps of a Dockerfile and to enter builders
ca-certificates /etc/ssl/certs/ca-certificates.crt to know whom to trust'
for_images='
git git to tell the commit that images are of
ca-certificates /usr/share/ca-certificates/mozilla to give images the certificate authorities of the web
gcc gcc to build runc for the image of containerfile-build
libc6-dev /usr/include/stdio.h to build runc for the image of containerfile-build
libseccomp-dev /usr/include/seccomp.h to build runc for the image of containerfile-build
pkg-config pkg-config to build runc for the image of containerfile-build'
for_images_arm64='
gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc to build runc for arm64
libc6-dev-arm64-cross /usr/aarch64-linux-gnu/include/stdio.h to build runc for arm64
libseccomp-dev:arm64 /usr/lib/aarch64-linux-gnu/libseccomp.a to build runc for arm64'
for_base_images='
mmdebstrap mmdebstrap to make base images from Debian packages
mount mount to make base images from Debian packages
debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg to verify Debian packages'
for_test='
busybox-static /bin/busybox to make a base image for the tests of builds
openssh-server sshd to serve Git repositories by SSH
gcc gcc to build tests with the race detector
libc6-dev /usr/include/stdio.h to build tests with the race detector
libcap2-bin setcap to give the builder the rights it has in a pod
uidmap newuidmap to build images without being root
curl curl to fetch the step as a pipeline does
podman podman to build images as a pipeline with docker does
docker-registry docker-registry to sign images in a registry of 2023
qemu-user qemu-aarch64 to run the programs of images for arm64
make make to build the binaries of a release
npm npm to fetch the parser of Groovy and the rules of accessibility
chromium chromium to look at the picture of a run as people do
default-jre-headless java to parse the Jenkinsfiles by Groovy'
for_bench='
git git to serve and to clone the source
runc runc to run the steps of a Dockerfile
skopeo skopeo to push images as others do
e2fsprogs mkfs.ext4 to have a disk as nodes of a cluster do
podman podman to build images as others do'
for_cluster='
gcc gcc to build runc for the cluster
libc6-dev /usr/include/stdio.h to build runc for the cluster
libseccomp-dev /usr/include/seccomp.h to build runc for the cluster
pkg-config pkg-config to build runc for the cluster
iptables iptables to give services their addresses and pods their ports'
for_kind='
podman podman to run the node of kind
containernetworking-plugins /usr/lib/cni/bridge to give containers of podman a network'
for_users='
uidmap newuidmap to build images without being root'

there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# lacking prints those lines of a list whose tool or file is absent.
lacking() {
	printf '%s\n' "$1" | while read -r package proof purpose; do
		[ -z "$package" ] || there "$proof" || printf '%s %s %s\n' "$package" "$proof" "$purpose"
	done
}

# registries_answer tells whether the real base images can be had: a registry asks whoever comes for a token.
registries_answer() {
	helper=/usr/lib/apt/apt-helper
	[ -x $helper ] || return 0
	answer=$(mktemp -d)
	for host in registry-1.docker.io gcr.io; do
		LC_ALL=C timeout 5 $helper -o Acquire::Retries=0 -o APT::Sandbox::User="$(id -un)" \
			download-file "https://$host/v2/" "$answer/$host" 2>&1 | grep -q ' 401 ' || break
		answered=$host
	done
	rm -rf "$answer"
	[ "${answered-}" = "$host" ]
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

update() {
	echo "install: fetching Debian's package lists"
	as_root apt-get update -qq
}

case ${1-} in
run) needs=$for_run base_images=$for_base_images ;;
test) needs=$for_run$for_base_images$for_images$for_test base_images= ;;
images) needs=$for_images base_images= ;;
images-arm64)
	needs=$for_images base_images=
	[ "$(uname -m)" = aarch64 ] || needs=$for_images$for_images_arm64
	;;
bench) needs=$for_bench$for_base_images base_images= ;;
cluster) needs=$for_cluster$for_base_images base_images= ;;
kind) needs=$for_cluster$for_base_images$for_kind base_images= ;;
e2e) needs=$for_cluster$for_images$for_base_images$for_test base_images= ;;
base-images) needs=$for_base_images base_images= ;;
*)
	sed -n '2,/^$/s/^# \{0,1\}//p;/^set/q' "$0" >&2
	exit 2
	;;
esac
case $(id -u):$1 in
0:* | *:images | *:images-arm64 | *:cluster) ;;
*) needs=$needs$for_users ;;
esac

missing=$(lacking "$needs")
if [ -n "$base_images" ] && [ -n "$(lacking "$base_images")" ] && ! registries_answer; then
	missing="$missing
$(lacking "$base_images")"
fi
packages=$(printf '%s\n' "$missing" | awk 'NF && !seen[$1]++ { print $1 }')

if [ -n "$packages" ]; then
	printf '%s\n' "$missing" | awk 'NF && !seen[$1]++ { name = $1; $1 = $2 = ""; print "install: " name " is missing, needed" substr($0, 2) }'
	if ! command -v apt-get >/dev/null; then
		echo "install: there is no apt here; install the equivalents of these Debian packages:" $packages >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		echo "install: only root can install, and there is no sudo; as root run: apt-get update && apt-get install" $packages >&2
		exit 1
	fi
	case $packages in
	*:arm64*)
		if ! dpkg --print-foreign-architectures | grep -qx arm64; then
			echo "install: adding Debian's architecture arm64"
			as_root dpkg --add-architecture arm64
			update
		fi
		;;
	esac
	# Lists that are absent or old make the first try fail.
	# shellcheck disable=SC2086 # a list of words
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null 2>&1 || {
		update
		# shellcheck disable=SC2086
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
	}
	echo "install: installed" $packages
fi

# Base images are made from where apt has its packages from, which it only tells once it has lists.
case $needs$missing in
*mmdebstrap*)
	if command -v apt-get >/dev/null && ! apt-get indextargets 'Created-By: Packages' | grep -q .; then
		update
	fi
	;;
esac
