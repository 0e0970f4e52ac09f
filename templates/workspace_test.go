package templates_test

import (
	"path"
	"slices"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
)

const workspacePath = "/mnt/vol"

// folders are the folders of the workspace that a container may have alone, and whether only to read. checkout-source
// makes them; what it hands over by digest, nobody writes after it.
var folders = map[string]bool{"source": true, "tree": true, "image": false, "cache": false, "sbom": false}

// whole are the steps that have the workspace whole. None of them runs code of strangers.
var whole = []string{"checkout-source", "publish-image"}

// lintWorkspace checks what containers see of the workspace, and where results are.
func lintWorkspace(f *faults, template wfv1.Template, step string) {
	containers := []corev1.Container{*template.Container}
	for _, c := range template.InitContainers {
		containers = append(containers, c.Container)
	}
	has := false
	for i, c := range containers {
		at := "spec.templates[0].container.volumeMounts"
		if i > 0 {
			at = "spec.templates[0].initContainers[" + c.Name + "].volumeMounts"
		}
		for _, m := range c.VolumeMounts {
			if m.Name != "workspace" {
				continue
			}
			has = has || i == 0
			onlyRead, known := folders[m.SubPath]
			switch {
			case m.SubPath == "" && m.MountPath == workspacePath && slices.Contains(whole, step):
			case m.SubPath == "" && !slices.Contains(whole, step):
				f.add(at, "the workspace must be mounted folder by folder")
			case m.SubPath == "":
				f.add(at, "the workspace must be at %s", workspacePath)
			case !known || m.MountPath != path.Join(workspacePath, m.SubPath):
				f.add(at, "the workspace's folder %s must be at %s/%[1]s", m.SubPath, workspacePath)
			case onlyRead && !m.ReadOnly:
				f.add(at, "the workspace's folder %s must be read-only", m.SubPath)
			}
		}
	}
	switch none := step == "commit-status"; { // which tells of a run, and reads nothing of it
	case none && has:
		f.add("spec.templates[0].container.volumeMounts", "the workspace must not be there")
	case !none && !has:
		f.add("spec.templates[0].container.volumeMounts", "the workspace must be at %s", workspacePath)
	}
	lintResults(f, template)
}

// lintResults checks that results are on a volume that one container has: Argo's own container follows whatever it
// finds there.
func lintResults(f *faults, template wfv1.Template) {
	if len(template.Outputs.Parameters) == 0 {
		return
	}
	i := slices.IndexFunc(template.Container.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == path.Clean(resultsDir)
	})
	if i < 0 {
		f.add("spec.templates[0].container.volumeMounts", "a volume of its own must be at %s", resultsDir)
		return
	}
	name := template.Container.VolumeMounts[i].Name
	for _, c := range template.InitContainers {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == name }) {
			f.add("spec.templates[0].initContainers["+c.Name+"].volumeMounts", "has the volume of the results")
		}
	}
	if v := slices.IndexFunc(template.Volumes, func(v corev1.Volume) bool { return v.Name == name }); v < 0 ||
		template.Volumes[v].EmptyDir == nil || template.Container.VolumeMounts[i].SubPath != "" {
		f.add("spec.templates[0].volumes["+name+"]", "must be an emptyDir, as results are on it")
	}
}
