// Package plane starts what a cluster's users see, on a node: Kubernetes, Argo Workflows, External Secrets and
// OpenChoreo's control plane.
package plane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/programs"
	"github.com/stepwright/stepwright/ci/cluster/volumes"
	"github.com/stepwright/stepwright/internal/pki"
)

// A Plane is being started on a node.
type Plane struct {
	state    node.State
	run      func(context.Context, node.Process) error
	say      func(format string, args ...any)
	programs programs.Set
	cluster  *Cluster
}

const apiServer = "https://127.0.0.1:6443"

// New makes a plane of a node that is furnished.
func New(s *node.Supervisor, set programs.Set) *Plane {
	return &Plane{state: s.State, run: s.Start, say: s.Say, programs: set}
}

// Start returns when all of the plane is ready.
func (p *Plane) Start(ctx context.Context) error {
	if err := p.startAPIServer(ctx); err != nil {
		return err
	}
	// Argo's definitions keep the API server busy for seconds, in which the node gets ready.
	for _, together := range [][]func(context.Context) error{
		{p.define, p.startNode},
		{p.startArgo, p.startOpenChoreo, p.startExternalSecrets},
	} {
		group, ctx := errgroup.WithContext(ctx)
		for _, start := range together {
			group.Go(func() error { return start(ctx) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// startAPIServer returns when objects can be made.
func (p *Plane) startAPIServer(ctx context.Context) error {
	if err := p.credentials(); err != nil {
		return fmt.Errorf("make credentials: %w", err)
	}
	if err := p.configure(); err != nil {
		return err
	}
	state := p.state
	if err := p.run(ctx, node.Process{
		Name: "etcd",
		Args: []string{"etcd", "--data-dir", state.Path("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
			"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
			"--listen-peer-urls", "http://127.0.0.1:2380"},
		Ready: answers("http://127.0.0.1:2379/health"),
	}); err != nil {
		return err
	}
	if err := p.run(ctx, node.Process{
		Name: "kube-apiserver",
		Args: []string{"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + node.Address,
			"--tls-cert-file=" + p.key("apiserver.crt"), "--tls-private-key-file=" + p.key("apiserver.key"),
			"--client-ca-file=" + p.key("ca.crt"),
			"--kubelet-client-certificate=" + p.key("apiserver-client.crt"),
			"--kubelet-client-key=" + p.key("apiserver-client.key"),
			"--service-cluster-ip-range=" + node.Services, "--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + p.key("serviceaccounts.pub"),
			"--service-account-signing-key-file=" + p.key("serviceaccounts.key"),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
			"--profiling=false"},
		Ready: p.apiReady,
	}); err != nil {
		return err
	}
	p.say("The API server is ready")
	var err error
	p.cluster, err = Connect(state.Kubeconfig("admin"))
	return err
}

// key is a file with one of Kubernetes' keys or certificates.
func (p *Plane) key(name string) string { return p.state.Path("pki", name) }

// startNode returns when pods can be made, their names be resolved and their images be pulled.
func (p *Plane) startNode(ctx context.Context) error {
	state := p.state
	if err := p.run(ctx, node.Process{
		Name:  "containerd",
		Args:  []string{"containerd", "--config", state.Path("containerd.toml")},
		Ready: dial("unix", "/run/containerd/containerd.sock"),
	}); err != nil {
		return err
	}
	for _, process := range []node.Process{
		{Name: "kube-controller-manager",
			Args: []string{"kube-controller-manager", "--kubeconfig=" + state.Kubeconfig("kube-controller-manager"),
				"--use-service-account-credentials=true",
				"--service-account-private-key-file=" + p.key("serviceaccounts.key"),
				"--root-ca-file=" + p.key("ca.crt"), "--leader-elect=false", "--profiling=false"}},
		{Name: "kube-scheduler",
			Args: []string{
				"kube-scheduler", "--kubeconfig=" + state.Kubeconfig("kube-scheduler"), "--leader-elect=false",
				"--profiling=false",
			}},
		{Name: "kubelet",
			Args: []string{
				"kubelet", "--config=" + state.Path("kubelet.yaml"), "--kubeconfig=" + state.Kubeconfig("kubelet"),
				"--hostname-override=" + node.Name,
				"--node-ip=" + node.Address, "--root-dir=" + node.Kubelet,
				"--cert-dir=" + state.Path("pki", "kubelet"),
			}},
		{Name: "kube-proxy", Args: []string{"kube-proxy", "--config=" + state.Path("kube-proxy.yaml")}},
		{Name: "networkpolicies",
			Args: []string{
				"networkpolicies", "--kubeconfig=" + state.Kubeconfig("admin"), "--node=" + node.Name,
				"--pods=" + node.Pods,
			},
			Ready: asked},
	} {
		if err := p.run(ctx, process); err != nil {
			return err
		}
	}
	if err := poll(ctx, 2*time.Minute, "node", func() error {
		n, err := p.cluster.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return nil
			}
		}
		return errors.New("it is not ready; see " + state.Log("kubelet"))
	}); err != nil {
		return err
	}
	p.say("The node is ready")
	// Before there is one, no pod can be made.
	if err := poll(ctx, time.Minute, "service account default", func() error {
		_, err := p.cluster.CoreV1().ServiceAccounts("kube-system").Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	for _, archive := range p.programs.Images() {
		if err := p.importImage(ctx, archive); err != nil {
			return err
		}
	}
	p.say("The node has its images")
	return p.startServices(ctx)
}

// startServices starts the cluster's services besides Kubernetes: DNS, volumes, and the registry.
func (p *Plane) startServices(ctx context.Context) error {
	dns, err := render("coredns.yaml", map[string]string{
		"Domain": node.Domain, "Address": node.Address, "DNS": node.DNS, "Image": programs.CoreDNSImage,
	})
	if err != nil {
		return err
	}
	storage, err := render("storage.yaml", map[string]string{"Provisioner": volumes.Provisioner})
	if err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, dns, storage); err != nil {
		return err
	}
	if err := p.run(ctx, p.own("volumes", nil)); err != nil {
		return err
	}
	if err := p.run(ctx, p.own("registry", answers("http://127.0.0.1:5000/v2/"))); err != nil {
		return err
	}
	if err := p.cluster.available(ctx, "kube-system", "coredns"); err != nil {
		return err
	}
	// Rules for a new service reach the node a moment after its pods are there.
	if err := poll(ctx, time.Minute, "DNS", func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := net.DefaultResolver.LookupHost(ctx, "registry."+node.Domain)
		return err
	}); err != nil {
		return err
	}
	p.say("Names, volumes and the registry are there")
	return nil
}

// own is one of this program's services.
func (p *Plane) own(name string, ready func(context.Context) error) node.Process {
	return node.Process{
		Name:  name,
		Args:  []string{p.state.Program(), "--state", p.state.Dir, "serve", name},
		Ready: ready,
	}
}

// credentials makes the keys of the cluster's components and a kubeconfig for each.
func (p *Plane) credentials() error {
	dir := p.state.Path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authority, err := pki.NewAuthority("stepwright-cluster")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), authority.PEM(), 0o644); err != nil {
		return err
	}
	server, err := authority.Server("kube-apiserver", "127.0.0.1", node.Address, node.API, "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	if err := server.Write(filepath.Join(dir, "apiserver")); err != nil {
		return err
	}
	client, err := authority.Client("apiserver", "system:masters")
	if err != nil {
		return err
	}
	if err := client.Write(filepath.Join(dir, "apiserver-client")); err != nil {
		return err
	}
	public, private, err := pki.SigningKey()
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "serviceaccounts.pub"), public, 0o644),
		os.WriteFile(filepath.Join(dir, "serviceaccounts.key"), private, 0o600),
	); err != nil {
		return err
	}
	for who, user := range map[string][]string{
		"admin":                   {"admin", "system:masters"},
		"kube-controller-manager": {"system:kube-controller-manager"},
		"kube-scheduler":          {"system:kube-scheduler"},
		"kube-proxy":              {"system:kube-proxy"},
		"kubelet":                 {"system:node:" + node.Name, "system:nodes"},
	} {
		pair, err := authority.Client(user[0], user[1:]...)
		if err != nil {
			return err
		}
		if err := p.kubeconfig(who, &api.AuthInfo{
			ClientCertificateData: pair.Certificate,
			ClientKeyData:         pair.Key,
		}); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) kubeconfig(who string, user *api.AuthInfo) error {
	authority, err := os.ReadFile(p.state.Path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	config := api.NewConfig()
	config.Clusters["stepwright"] = &api.Cluster{Server: apiServer, CertificateAuthorityData: authority}
	config.AuthInfos[who] = user
	config.Contexts["stepwright"] = &api.Context{Cluster: "stepwright", AuthInfo: who}
	config.CurrentContext = "stepwright"
	return clientcmd.WriteToFile(*config, p.state.Kubeconfig(who))
}

// configure writes the configurations of Kubernetes' components.
func (p *Plane) configure() error {
	data := map[string]string{
		"State": p.state.Dir, "Cgroup": p.state.Cgroup(), "Node": node.Name, "DNS": node.DNS, "Pods": node.Pods,
		"Pause": programs.PauseImage, "Plugins": p.programs.Containerd, "Runc": p.programs.Runc,
		"Registry": node.Registry,
	}
	for file, manifest := range map[string]string{
		"containerd.toml":                "containerd.toml",
		"kubelet.yaml":                   "kubelet.yaml",
		"kube-proxy.yaml":                "kube-proxy.yaml",
		"cni/10-bridge.conflist":         "cni.conflist",
		"registries/_default/hosts.toml": "registries.toml",
	} {
		content, err := render(manifest, data)
		if err != nil {
			return err
		}
		path := p.state.Path(file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			return err
		}
	}
	// Of pods that do not ask the cluster's DNS server: they know no names.
	return os.WriteFile(p.state.Path("resolv.conf"), nil, 0o644)
}

func (p *Plane) importImage(ctx context.Context, archive string) error {
	cmd := exec.CommandContext(
		ctx, filepath.Join(p.programs.Containerd, "ctr"), "--namespace", "k8s.io", "images", "import", archive,
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w\n%s", archive, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// apiReady is nil when the API server and all that it starts with is ready.
func (p *Plane) apiReady(ctx context.Context) error {
	cluster, err := Connect(p.state.Kubeconfig("admin"))
	if err != nil {
		return err
	}
	return cluster.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// answers is nil when a GET succeeds.
func answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}

// asked is nil when the kernel has a program to ask about packets.
func asked(context.Context) error {
	queues, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
	if err == nil && len(queues) == 0 {
		err = errors.New("no program answers for the kernel's queue of packets")
	}
	return err
}

// dial is nil when somebody listens.
func dial(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		connection, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return connection.Close()
	}
}
