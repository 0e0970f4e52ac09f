package secretstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Kind is what this package materialises.
var Kind = schema.GroupVersionKind{Group: "external-secrets.io", Version: "v1", Kind: "ExternalSecret"}

// Run materialises ExternalSecrets until the context ends. What changes in the store reaches them at once.
func Run(ctx context.Context, config *rest.Config, logger logr.Logger) error {
	log.SetLogger(logger)
	m, err := manager.New(config, manager.Options{Metrics: server.Options{BindAddress: "0"}})
	if err != nil {
		return err
	}
	r := &reconciler{m.GetClient()}
	var watched unstructured.Unstructured
	watched.SetGroupVersionKind(Kind)
	inStore := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetNamespace() == Namespace
	}))
	err = builder.ControllerManagedBy(m).Named("externalsecret").For(&watched).Owns(&corev1.Secret{}).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.all), inStore).Complete(r)
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

type reconciler struct{ client client.Client }

// all are the ExternalSecrets: any of them may ask for what has changed in the store.
func (r *reconciler) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list unstructured.UnstructuredList
	list.SetGroupVersionKind(Kind)
	if err := r.client.List(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "cannot list ExternalSecrets")
		return nil
	}
	var requests []reconcile.Request
	for _, item := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&item)})
	}
	return requests
}

func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var object unstructured.Unstructured
	object.SetGroupVersionKind(Kind)
	if err := r.client.Get(ctx, request.NamespacedName, &object); err != nil || object.GetDeletionTimestamp() != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var es ExternalSecret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &es); err != nil {
		return reconcile.Result{}, err
	}
	secret, err := Secret(&es, metav1.Now().Time, func(name string) (*corev1.Secret, error) {
		var stored corev1.Secret
		err := r.client.Get(ctx, types.NamespacedName{Namespace: Namespace, Name: name}, &stored)
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("the store has no secret %q", name)
		}
		return &stored, err
	})
	if later, ok := errors.AsType[*NotYetError](err); ok {
		return reconcile.Result{RequeueAfter: later.After}, nil
	}
	if err == nil {
		err = r.apply(ctx, secret)
	}
	if err != nil {
		log.FromContext(ctx).Info("Not materialised", "why", err.Error())
	} else {
		log.FromContext(ctx).Info("Materialised", "secret", secret.Name)
	}
	return reconcile.Result{}, r.report(ctx, &object, err)
}

func (r *reconciler) apply(ctx context.Context, secret *corev1.Secret) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(secret)
	if err != nil {
		return err
	}
	wanted := client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: fields})
	return r.client.Apply(ctx, wanted, client.FieldOwner("stepwright-secretstore"), client.ForceOwnership)
}

// report sets the condition Ready. A value that is missing is asked for again when the store changes.
func (r *reconciler) report(ctx context.Context, object *unstructured.Unstructured, failure error) error {
	condition := map[string]any{
		"type": "Ready", "status": "True", "reason": "SecretSynced", "message": "secret synced",
		"lastTransitionTime": metav1.Now().UTC().Format("2006-01-02T15:04:05Z"),
	}
	if failure != nil {
		condition["status"], condition["reason"] = "False", "SecretSyncedError"
		condition["message"] = "could not get secret data from provider: " + failure.Error()
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		if old, ok := entry.(map[string]any); ok && old["status"] == condition["status"] &&
			old["message"] == condition["message"] {
			return nil
		}
	}
	if err := unstructured.SetNestedSlice(object.Object, []any{condition}, "status", "conditions"); err != nil {
		return err
	}
	return client.IgnoreNotFound(r.client.Status().Update(ctx, object))
}
