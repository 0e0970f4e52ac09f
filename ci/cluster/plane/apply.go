package plane

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/template"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

//go:embed manifests
var manifests embed.FS

func render(name string, data any) ([]byte, error) { return Render(manifests, name, data) }

// Render fills in a manifest, which is in the folder manifests, of a part of this program.
func Render(files fs.FS, name string, data any) ([]byte, error) {
	parsed, err := template.New(name).Option("missingkey=error").ParseFS(files, "manifests/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := parsed.ExecuteTemplate(&out, name, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// A Cluster is an API server, called as its administrator.
type Cluster struct {
	kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	mapper   *restmapper.DeferredDiscoveryRESTMapper
}

// Connect makes a Cluster of a kubeconfig. It calls nobody yet.
func Connect(kubeconfig string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the server limits itself
	config.WarningHandler = rest.NoWarnings{}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	untyped, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	names, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		typed, untyped, names, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)),
	}, nil
}

// Apply applies every object of YAML documents, as kubectl apply --server-side does.
func (c *Cluster) Apply(ctx context.Context, documents ...[]byte) error {
	for _, document := range documents {
		decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(document), 4096)
		for {
			var object unstructured.Unstructured
			err := decoder.Decode(&object.Object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if len(object.Object) == 0 {
				continue
			}
			if err := c.apply(ctx, &object); err != nil {
				return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
			}
		}
	}
	return nil
}

func (c *Cluster) apply(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := c.resource(object.GroupVersionKind(), object.GetNamespace())
	if err != nil {
		return err
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "stepwright", Force: true})
	return err
}

func (c *Cluster) resource(kind schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		mapping, err = c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if err != nil {
		return nil, err
	}
	resource := c.dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return resource, nil
	}
	return resource.Namespace(namespace), nil
}

// namespace makes a namespace when it is not there.
func (c *Cluster) namespace(ctx context.Context, name string) error {
	return c.Apply(ctx, fmt.Appendf(nil, "{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", name))
}

// define makes a custom resource of a definition in JSON, without looking at it.
func (c *Cluster) define(ctx context.Context, definition []byte) error {
	return c.Discovery().RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").
		Param("fieldManager", "stepwright").SetHeader("Content-Type", "application/json").
		Body(definition).Do(ctx).Error()
}

// established waits until the API server serves all custom resources.
func (c *Cluster) established(ctx context.Context) error {
	resource := schema.GroupVersionResource{
		Group:    "apiextensions.k8s.io",
		Version:  "v1",
		Resource: "customresourcedefinitions",
	}
	// without the definitions, which are megabytes
	list, err := c.metadata.Resource(resource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range list.Items {
		if err := poll(ctx, 3*time.Minute, "custom resource "+item.Name, func() error {
			definition, err := c.dynamic.Resource(resource).Get(ctx, item.Name, metav1.GetOptions{})
			if err == nil && !condition(definition, "Established") {
				err = errors.New("it is not established")
			}
			return err
		}); err != nil {
			return err
		}
	}
	c.mapper.Reset()
	return nil
}

// available waits until a Deployment's pods serve.
func (c *Cluster) available(ctx context.Context, namespace, name string) error {
	return poll(ctx, 3*time.Minute, "Deployment "+namespace+"/"+name, func() error {
		deployment, err := c.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if deployment.Status.AvailableReplicas == 0 || deployment.Status.ObservedGeneration < deployment.Generation {
			return errors.New("no pod is available")
		}
		return nil
	})
}

func condition(object *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		if c, ok := entry.(map[string]any); ok && c["type"] == kind {
			return c["status"] == "True"
		}
	}
	return false
}

// poll tries until there is no error.
func poll(ctx context.Context, limit time.Duration, what string, try func() error) error {
	for deadline := time.Now().Add(limit); ; {
		err := try()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("%s: not in %s: %w", what, limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
