// Package secretstore stands in for the External Secrets Operator: it materialises ExternalSecrets of all namespaces
// from Secrets in one.
//
// The store `default` (a ClusterSecretStore by name; there is no object of that kind) is the namespace secret-store: a
// remoteRef's key is a Secret there, its property one of the Secret's keys. A Secret with the annotation
// stepwright.test/delay, a duration such as 15s, is there for ExternalSecrets only when they are that old.
package secretstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What users of the store know of it.
const (
	Namespace = "secret-store"          // with the store's Secrets
	Store     = "default"               // what ExternalSecrets call it
	Delay     = "stepwright.test/delay" // annotation of a store's Secret
)

// ExternalSecret is what this package knows of one: external-secrets.io/v1.
type ExternalSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		SecretStoreRef struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"secretStoreRef"`
		Target struct {
			Name           string    `json:"name"`
			CreationPolicy string    `json:"creationPolicy"`
			Template       *Template `json:"template"`
		} `json:"target"`
		Data []struct {
			SecretKey string    `json:"secretKey"`
			RemoteRef RemoteRef `json:"remoteRef"`
		} `json:"data"`
	} `json:"spec"`
}

// Template says how the Secret is made from the values.
type Template struct {
	Type        corev1.SecretType `json:"type"`
	MergePolicy string            `json:"mergePolicy"`
	Data        map[string]string `json:"data"`
}

// RemoteRef says where a value is in the store.
type RemoteRef struct {
	Key      string `json:"key"`
	Property string `json:"property"`
}

// NotYetError says that a value is there later.
type NotYetError struct{ After time.Duration }

func (e *NotYetError) Error() string {
	return fmt.Sprintf("the store gives the value in %s", e.After.Round(time.Second))
}

// Secret makes what an ExternalSecret asks for. lookup returns a Secret of the store. The error may be a *NotYetError.
func Secret(
	es *ExternalSecret, now time.Time, lookup func(name string) (*corev1.Secret, error),
) (*corev1.Secret, error) {
	if ref := es.Spec.SecretStoreRef; ref.Kind != "ClusterSecretStore" || ref.Name != Store {
		return nil, fmt.Errorf("could not get %s %q: not found", ref.Kind, ref.Name)
	}
	values := map[string][]byte{}
	for _, entry := range es.Spec.Data {
		stored, err := lookup(entry.RemoteRef.Key)
		if err != nil {
			return nil, err
		}
		if text, ok := stored.Annotations[Delay]; ok {
			delay, err := time.ParseDuration(text)
			if err != nil {
				return nil, fmt.Errorf("annotation %s of the store's %s: %w", Delay, stored.Name, err)
			}
			if rest := es.CreationTimestamp.Add(delay).Sub(now); rest > 0 {
				return nil, &NotYetError{rest}
			}
		}
		if values[entry.SecretKey], err = entry.RemoteRef.value(stored); err != nil {
			return nil, err
		}
	}
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name: es.Spec.Target.Name, Namespace: es.Namespace,
			Labels: map[string]string{"reconcile.external-secrets.io/managed": "true"},
		},
		Type: corev1.SecretTypeOpaque,
		Data: values,
	}
	if secret.Name == "" {
		secret.Name = es.Name
	}
	if t := es.Spec.Target.Template; t != nil {
		if t.Type != "" {
			secret.Type = t.Type
		}
		if len(t.Data) > 0 {
			data, err := t.execute(values)
			if err != nil {
				return nil, err
			}
			if t.MergePolicy == "Merge" {
				maps.Copy(values, data)
			} else {
				secret.Data = data
			}
		}
	}
	if es.Spec.Target.CreationPolicy == "" || es.Spec.Target.CreationPolicy == "Owner" {
		secret.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(es, es.GroupVersionKind())}
	}
	return secret, nil
}

// value is one key of a stored Secret, or all of them as JSON when no property is named.
func (r RemoteRef) value(stored *corev1.Secret) ([]byte, error) {
	if r.Property == "" {
		all := map[string]string{}
		for key, value := range stored.Data {
			all[key] = string(value)
		}
		return json.Marshal(all)
	}
	value, ok := stored.Data[r.Property]
	if !ok {
		return nil, fmt.Errorf(
			"property %s does not exist in key %s; there is %v", r.Property, r.Key,
			slices.Sorted(maps.Keys(stored.Data)),
		)
	}
	return value, nil
}

// execute fills in the templates as the External Secrets Operator's engine v2 does: values are texts, one that is
// absent is an error. Of its functions toString alone is here.
func (t *Template) execute(values map[string][]byte) (map[string][]byte, error) {
	texts := map[string]string{}
	for key, value := range values {
		texts[key] = string(value)
	}
	data := map[string][]byte{}
	for key, text := range t.Data {
		parsed, err := template.New(key).Option("missingkey=error").Funcs(template.FuncMap{
			"toString": toString,
		}).Parse(text)
		if err != nil {
			return nil, fmt.Errorf("could not parse the template of %s: %w", key, err)
		}
		var out bytes.Buffer
		if err := parsed.Execute(&out, texts); err != nil {
			return nil, fmt.Errorf("could not execute the template of %s: %w", key, err)
		}
		data[key] = out.Bytes()
	}
	return data, nil
}

func toString(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return fmt.Sprint(v)
}
