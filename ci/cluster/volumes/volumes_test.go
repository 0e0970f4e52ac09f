package volumes

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

func TestFolders(t *testing.T) {
	f := folders{t.TempDir()}
	reclaim := corev1.PersistentVolumeReclaimDelete
	options := controller.ProvisionOptions{
		StorageClass: &storagev1.StorageClass{ReclaimPolicy: &reclaim},
		PVName:       "pvc-1",
		PVC: &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			},
		}},
	}
	if _, _, err := f.Provision(t.Context(), options); err == nil {
		t.Error("a volume was made before a node was chosen")
	}
	options.SelectedNodeName = "node"
	volume, _, err := f.Provision(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, "pvc-1")
	if volume.Spec.Local.Path != path || !volume.Spec.Capacity[corev1.ResourceStorage].Equal(
		resource.MustParse("2Gi"),
	) {
		t.Errorf("%+v", volume.Spec)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A provisioner may be asked again, when it has not seen its own answer yet.
	if _, _, err := f.Provision(t.Context(), options); err != nil {
		t.Error(err)
	}
	if err := f.Delete(t.Context(), volume); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the folder is there after the volume has gone: %v", err)
	}
	volume.Spec.Local.Path = t.TempDir()
	if err := f.Delete(t.Context(), volume); err == nil {
		t.Error("a folder of somebody else was removed")
	}
}
