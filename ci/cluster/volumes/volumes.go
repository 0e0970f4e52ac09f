// Package volumes makes volumes for claims on a cluster of one node: each a folder of the node's, as a local volume, so
// that a kubelet gives it to the group of the pod that uses it.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Provisioner is what a StorageClass calls this package.
const Provisioner = "stepwright.test/local"

// Run makes and removes volumes in a folder of the node until the context ends.
func Run(ctx context.Context, client kubernetes.Interface, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	controller.NewProvisionController(ctx, client, Provisioner, folders{dir}, controller.LeaderElection(false)).Run(ctx)
	return nil
}

// folders are volumes in a folder.
type folders struct{ dir string }

// Provision makes a folder for a claim. As with any local volume, nobody holds the claim to the size that it asks for.
func (f folders) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if options.SelectedNodeName == "" {
		return nil, controller.ProvisioningFinished, errors.New(
			"no pod uses the claim yet: the class must have volumeBindingMode WaitForFirstConsumer",
		)
	}
	path := filepath.Join(f.dir, options.PVName)
	// An ordinary user gets in by the pod's fsGroup only.
	if err := os.Mkdir(path, 0o770); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, controller.ProvisioningFinished, err
	}
	filesystem := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			VolumeMode:                    &filesystem,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{
				Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn,
						Values: []string{options.SelectedNodeName},
					}},
				}}},
			},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes a claim's folder.
func (f folders) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	if volume.Spec.Local == nil || filepath.Dir(volume.Spec.Local.Path) != f.dir {
		return fmt.Errorf("volume %s is not in %s", volume.Name, f.dir)
	}
	return os.RemoveAll(volume.Spec.Local.Path)
}
