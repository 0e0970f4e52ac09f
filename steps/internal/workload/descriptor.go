package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// descriptor is workload.yaml (docs/contract.md section 3). Its json tags are the keys; no omitempty, as it is only
// read.
type descriptor struct {
	APIVersion     string         `json:"apiVersion"`
	Metadata       metadata       `json:"metadata"`
	Endpoints      []endpoint     `json:"endpoints"`
	Dependencies   dependencies   `json:"dependencies"`
	Configurations configurations `json:"configurations"`
}

// metadata is accepted and has no effect: a Workload is named after its component.
type metadata struct {
	Name string `json:"name"`
}

type endpoint struct {
	Name        string   `json:"name"`
	DisplayName string   `json:"displayName"`
	Port        int32    `json:"port"`
	TargetPort  int32    `json:"targetPort"`
	Type        string   `json:"type"`
	BasePath    string   `json:"basePath"`
	SchemaFile  string   `json:"schemaFile"`
	Visibility  []string `json:"visibility"`
}

type dependencies struct {
	Endpoints []endpointDependency `json:"endpoints"`
	Resources []resourceDependency `json:"resources"`
}

type endpointDependency struct {
	Project     string              `json:"project"`
	Component   string              `json:"component"`
	Name        string              `json:"name"`
	Visibility  string              `json:"visibility"`
	EnvBindings endpointEnvBindings `json:"envBindings"`
}

type endpointEnvBindings struct {
	Address  string `json:"address"`
	Host     string `json:"host"`
	Port     string `json:"port"`
	BasePath string `json:"basePath"`
}

type resourceDependency struct {
	Ref          string            `json:"ref"`
	EnvBindings  map[string]string `json:"envBindings"`
	FileBindings map[string]string `json:"fileBindings"`
}

type configurations struct {
	Env   []variable `json:"env"`
	Files []file     `json:"files"`
}

type variable struct {
	Name      string  `json:"name"`
	Value     string  `json:"value"`
	ValueFrom *origin `json:"valueFrom"`
}

type file struct {
	Name      string  `json:"name"`
	MountPath string  `json:"mountPath"`
	Value     string  `json:"value"`
	ValueFrom *origin `json:"valueFrom"`
}

// origin is where a value comes from that the descriptor does not hold itself.
type origin struct {
	SecretKeyRef *secretKeyRef `json:"secretKeyRef"`
	Path         string        `json:"path"` // of files only
}

type secretKeyRef struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// parse reads a descriptor. Its faults are in the outline; the descriptor holds the values that could be
// read.
func parse(raw []byte) (descriptor, *outline) {
	var d descriptor
	err := yaml.Unmarshal(raw, &d)
	if _, shape := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !shape {
		o := &outline{broken: map[string]bool{}}
		o.fault("", "%s", strings.TrimPrefix(err.Error(), "error converting YAML to JSON: yaml: "))
		return d, o
	}
	o := newOutline(raw, reflect.TypeFor[descriptor]())
	if err != nil && len(o.faults) == 0 {
		o.fault("", "%s", err)
	}
	return d, o
}

// seems tells what a text seems to be that is no descriptor, empty when it may be one. The reference ignores each key
// that it does not know; but where nothing else is said, the Workload would lose all it has.
func (o *outline) seems() string {
	kind, version := o.top["kind"], o.top["apiVersion"]
	has := func(key string) bool { _, there := o.top[key]; return there }
	resource := slices.Contains(o.foreign, "spec")
	if !resource && (len(o.foreign) == 0 || has("endpoints") || has("dependencies") || has("configurations")) {
		return ""
	}
	switch {
	case kind == "Workload":
		return "a Workload custom resource"
	case kind != "" && version != "":
		return fmt.Sprintf("a Kubernetes object, %s of %s", kind, version)
	case has("services"):
		return "a Compose file"
	case has("openapi") || has("swagger"):
		return "an API definition"
	case version != "" && !strings.HasPrefix(version, "openchoreo.dev/"):
		return "a file of " + version
	}
	return "a file of another tool"
}
