package templates_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// reaches tells whether a policy lets its pods open a TCP connection to an address outside of the cluster's pods.
func reaches(t *testing.T, policy networkingv1.NetworkPolicy, address string) bool {
	t.Helper()
	to := netip.MustParseAddrPort(address)
	within := func(network string) bool {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			t.Errorf("%s: %v", policy.Name, err)
		}
		return prefix.Contains(to.Addr())
	}
	for _, rule := range policy.Spec.Egress {
		for _, peer := range rule.To {
			if peer.IPBlock == nil {
				continue
			}
			_, network, err := net.ParseCIDR(peer.IPBlock.CIDR)
			for _, except := range peer.IPBlock.Except {
				// As the API server wants it; a network of IPv4 as one of IPv6 is none to it.
				if ip, _, failure := net.ParseCIDR(except); err != nil || failure != nil || !network.Contains(ip) {
					t.Errorf("%s: %s is not within %s", policy.Name, except, peer.IPBlock.CIDR)
				}
			}
		}
	}
	return slices.ContainsFunc(policy.Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
		port := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool {
			return *p.Protocol == corev1.ProtocolTCP && p.Port.IntValue() == int(to.Port())
		})
		peer := len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(p networkingv1.NetworkPolicyPeer) bool {
			return p.IPBlock != nil && within(p.IPBlock.CIDR) && !slices.ContainsFunc(p.IPBlock.Except, within)
		})
		return port && peer
	})
}

// namespaces are those that a policy lets its pods connect to.
func namespaces(policy networkingv1.NetworkPolicy) []string {
	var all []string
	for _, rule := range policy.Spec.Egress {
		for _, peer := range rule.To {
			if peer.NamespaceSelector != nil {
				all = append(all, peer.NamespaceSelector.MatchLabels[corev1.LabelMetadataName])
			}
		}
	}
	return all
}

// policies are the NetworkPolicies of a run, by the steps that they are for.
func policies(t *testing.T, clusterWorkflow map[string]any) map[string]networkingv1.NetworkPolicy {
	t.Helper()
	_, resources, err := renderRun(clusterWorkflow, ordinary())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]networkingv1.NetworkPolicy{}
	for _, resource := range resources {
		if resource["kind"] != "NetworkPolicy" {
			continue
		}
		policy, err := convert[networkingv1.NetworkPolicy](resource)
		if err != nil {
			t.Fatal(err)
		}
		all[policy.Spec.PodSelector.MatchLabels["stepwright.dev/step"]] = policy
		if policy.Namespace != "workflows-acme" || len(policy.Spec.Ingress) > 0 || !slices.Equal(
			policy.Spec.PolicyTypes,
			[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		) {
			t.Errorf("%s/%s: %+v", policy.Namespace, policy.Name, policy.Spec)
		}
	}
	return all
}

func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	type destinations map[string][]string // by step
	every := []string{"build", "checkout", "generate", "publish"}
	tests := []struct {
		name, dir  string
		open, shut destinations
		namespaces destinations
	}{
		{
			"as they come", overlay(t, "control-plane-settings", "network-policies"),
			destinations{"": {"8.8.8.8:443", "8.8.8.8:22", "[2606:4700::1]:443", "10.96.0.1:443", "192.168.1.9:6443"}},
			destinations{"": {
				"169.254.169.254:80", "[fd00:ec2::254]:80", "10.244.0.7:8080", "172.20.0.3:10250", "192.168.1.9:10250",
				"100.64.0.1:80", "127.0.0.1:80", "[fe80::1]:80", "[::1]:80", "[64:ff9b::a00:1]:80",
			}},
			destinations{},
		},
		{
			"the example", "overlays/example",
			destinations{
				"":         {"10.96.0.1:443", "10.20.0.10:6443"},
				"checkout": {"8.8.8.8:443", "10.30.0.5:443"},
				"build":    {"8.8.8.8:443", "10.30.0.6:443", "10.30.0.7:1", "10.30.0.7:65535"},
				"publish":  {"10.30.0.6:443", "[fd12:3456::1]:443"},
				"generate": {"10.30.0.8:443"},
			},
			destinations{
				"": {
					"10.96.0.1:6443", "10.20.0.10:443", "169.254.169.254:80", "203.0.113.5:443", "[2001:db8::1]:443",
					"10.30.0.9:443",
				},
				"checkout": {"10.30.0.5:22", "10.30.0.6:443"},
				"build":    {"10.30.0.5:443", "10.30.0.6:80"},
				"publish":  {"8.8.8.8:443", "[fd12:3456::1]:80"},
				"generate": {"8.8.8.8:443", "10.30.0.6:443"},
			},
			destinations{"": {"monitoring"}, "generate": {"openchoreo-control-plane"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, clusterWorkflow := range ofKind(build(t, test.dir), "ClusterWorkflow") {
				name := at(clusterWorkflow, "metadata", "name")
				all := policies(t, clusterWorkflow)
				if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, every) {
					t.Fatalf("%s: policies for %v, want %v", name, got, every)
				}
				for step, policy := range all {
					for _, address := range append(test.open[""], test.open[step]...) {
						if !reaches(t, policy, address) {
							t.Errorf("%s: %s cannot reach %s", name, step, address)
						}
					}
					for _, address := range append(test.shut[""], test.shut[step]...) {
						if reaches(t, policy, address) {
							t.Errorf("%s: %s reaches %s", name, step, address)
						}
					}
					if got := namespaces(policy); !slices.Equal(got,
						slices.Concat(test.namespaces[step], test.namespaces[""])) {
						t.Errorf("%s: %s reaches the namespaces %q", name, step, got)
					}
				}
			}
		})
	}
}

// Each pod of a run has the label by which its policy finds it.
func TestPodsHaveTheirStepsLabel(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, template := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		step, _ := at(template, "spec", "templates", 0, "metadata", "labels", "stepwright.dev/step").(string)
		found[step] = true
	}
	want := map[string]bool{"checkout": true, "build": true, "publish": true, "generate": true}
	if !maps.Equal(found, want) {
		t.Errorf("the pods are labelled as %v, want %v", found, want)
	}
}
