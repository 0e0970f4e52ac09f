//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// Values of build secrets in the store.
const npmToken, pipToken = "canary-npm-51c8", "canary-pip-9e02"

// buildSecretsReference names an entry of the secret store of the same name, which is for the builds of a component.
func buildSecretsReference(name, components string, keys ...string) object {
	return referenceTo(name, object{
		"metadata": object{"annotations": object{"stepwright.dev/build-secrets": components}},
	}, keys)
}

// testParameters has a developer set what the binaries can do: secrets of RUN through External Secrets, the stage,
// labels, the cache, submodules and Git LFS. The image has the digest that stepwright run gives it.
func testParameters(t *testing.T) {
	t.Parallel()
	if err := k8s.apply(t.Context(),
		stored("cart-npm", map[string]string{"npmrc": npmToken}),
		stored("cart-python", map[string]string{"pip.conf": pipToken, "unused": "x"}),
		buildSecretsReference("cart-npm", "true", "npmrc"),
		buildSecretsReference("cart-python", project+"/asked, "+project+"/another", "pip.conf", "unused"),
		buildSecretsReference("till-npm", project+"/till", "npmrc"),
	); err != nil {
		t.Fatal(err)
	}
	t.Run("all that a Dockerfile takes", testAsked)
	t.Run("no cache", testNoCache)
	t.Run("submodules that must be there", func(t *testing.T) {
		t.Parallel()
		b := build{name: "modules", url: withSubmodule(t, "modules.git", small)}
		b.more = object{"repository": object{"url": b.url, "submodules": "true"}}
		failure{task: "checkout-source", reason: "RepositoryNotFound", says: []string{"nowhere"}}.check(t, b)
	})
	for name, test := range map[string]struct {
		secret object
		says   string
	}{
		"another-component": {object{"name": "npmrc", "secretRef": "till-npm"}, "npmrc (SecretReference till-npm)"},
		"git-as-secret": {
			object{"name": "npmrc", "secretRef": "git-basic", "key": "password"},
			"npmrc (key password of SecretReference git-basic)",
		},
	} {
		t.Run("a secret that is not for the build/"+name, func(t *testing.T) {
			t.Parallel()
			serving.repository(t, name+".git", small)
			b := build{name: name, url: "https://" + publicGit + "/" + name + ".git",
				more: object{"buildSecrets": []any{test.secret}}}
			failure{
				task: "containerfile-build", reason: "InvalidParameters", says: []string{test.says},
				hint: "Check that each secretRef names a SecretReference whose secret exists",
			}.check(t, b)
		})
	}
}

// withSubmodule makes a repository with a submodule whose own repository is not there, and returns its URL.
func withSubmodule(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	all := map[string]string{
		".gitmodules": "[submodule \"gone\"]\n\tpath = gone\n\turl = https://" + publicGit + "/nowhere.git\n",
	}
	for name, content := range files {
		all[name] = content
	}
	serving.repository(t, name, all)
	git := func(args ...string) string {
		t.Helper()
		author := devgit.Identity(time.Unix(1_700_000_000, 0))
		return must(devgit.Git(t.Context(), filepath.Join(serving.gitRoot, name), author, nil, args...))(t)
	}
	git("read-tree", "main")
	git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("ab", 20)+",gone")
	git("update-ref", "refs/heads/main", git("commit-tree", "-m", "x", git("write-tree")))
	return "https://" + publicGit + "/" + name
}

func testAsked(t *testing.T) {
	t.Parallel()
	const name = "asked"
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" +
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nsize 12\n"
	b := build{name: name, url: withSubmodule(t, name+".git", with(map[string]string{
		".gitattributes": "*.bin filter=lfs -text\n", "large.bin": pointer,
		"Dockerfile": "FROM busybox:1 AS base\n" +
			"RUN --mount=type=bind,source=large.bin,target=/large.bin grep -q git-lfs /large.bin\n" +
			"RUN --mount=type=secret,id=npm,required=true --mount=type=secret,id=pip.conf,required=true " +
			"grep -q npm-51c8 /run/secrets/npm && grep -q pip-9e02 /run/secrets/pip.conf && " +
			"echo both > /read\n" +
			// The pod's fsGroup lets groups write what is copied here, and a laptop's files are not of a group.
			"FROM base AS wanted\nCOPY large.bin /\nCMD [\"cat\", \"/read\"]\nFROM base AS last\nRUN exit 9\n",
	}))}
	b.more = object{
		"repository": object{"url": b.url, "submodules": "false", "lfs": "false"},
		"docker":     object{"target": "wanted"},
		"labels":     []any{object{"name": "team", "value": "{{workflow.name}} of $(HOME)"}},
		"buildSecrets": []any{
			object{"name": "npm", "secretRef": "cart-npm"},
			object{"name": "pip.conf", "secretRef": "cart-python", "key": "pip.conf"},
		},
	}
	b.succeed(t, 4*time.Minute)
	image := workload(t, name).Spec.Container.Image
	config := must(serving.image(t, image).ConfigFile())(t).Config
	if got := config.Labels["team"]; got != "{{workflow.name}} of $(HOME)" {
		t.Errorf("the label is %q", got)
	}
	if len(config.Cmd) != 2 || config.Cmd[1] != "/read" {
		t.Errorf("another stage was built: %v", config)
	}
	said := logs(t, b.runName())
	for _, secret := range []string{npmToken, pipToken} {
		if strings.Contains(said, secret) {
			t.Errorf("the logs show a build secret: %s…", secret[:9])
		}
	}
	checkCanaries(t, b.runName())

	dir := t.TempDir()
	for file, value := range map[string]string{"npm": npmToken, "pip.conf": pipToken} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	checkLaptop(t, b, image, "--build-secrets-dir", dir)
}

// testNoCache builds one commit twice: with a cache the second image would be the first.
func testNoCache(t *testing.T) {
	t.Parallel()
	const name = "no-cache"
	serving.repository(t, name+".git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n",
	}))
	b := build{name: name, run: name + "-1", url: "https://" + publicGit + "/" + name + ".git"}
	b.succeed(t, 4*time.Minute)
	first := workload(t, name).Spec.Container.Image
	b.run = name + "-2"
	b.succeed(t, 4*time.Minute)
	if again := workload(t, name).Spec.Container.Image; again != first {
		t.Fatalf("without noCache there is no cache either: %s, then %s", first, again)
	}
	b.run, b.more = name+"-3", object{"noCache": true}
	b.succeed(t, 4*time.Minute)
	if anew := workload(t, name).Spec.Container.Image; anew == first {
		t.Errorf("noCache takes what the cache has: %s", anew)
	}
}
