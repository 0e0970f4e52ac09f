// Command networkpolicies enforces NetworkPolicies on a node, by the engine that kindnet has. The first packet of each
// connection of a pod goes through it. The engine's own rules are for nftables with queues, which not every kernel has,
// so these rules are for iptables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// queue is the number of the kernel's queue of packets.
const queue = 100

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	node := flag.String("node", "", "name of the node")
	pods := flag.String("pods", "", "network of the pods, such as 10.244.0.0/24")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := enforce(ctx, *kubeconfig, *node, *pods); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func enforce(ctx context.Context, kubeconfig, node, pods string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	all := informers.NewSharedInformerFactory(client, 0)
	controller, err := networkpolicy.NewController(
		client, all.Networking().V1().NetworkPolicies(), all.Core().V1().Namespaces(), all.Core().V1().Pods(), nil, nil,
		nil, nil, networkpolicy.Config{QueueID: queue, NodeName: node},
	)
	if err != nil {
		return err
	}
	all.Start(ctx.Done())
	if err := divert(ctx, pods); err != nil {
		return err
	}
	return controller.Run(ctx)
}

// divert has the kernel ask the engine about each new connection of a pod: to others after services have got their
// addresses, and to the node itself. What the node connects to is left alone, for the kubelet looks after pods.
func divert(ctx context.Context, pods string) error {
	ask := "-m conntrack --ctstate NEW -j NFQUEUE --queue-num " + strconv.Itoa(queue)
	var errs []error
	for _, rule := range []string{
		"POSTROUTING -m addrtype --src-type LOCAL -j RETURN",
		"POSTROUTING -s " + pods + " " + ask,
		"POSTROUTING -d " + pods + " " + ask,
		"INPUT -s " + pods + " " + ask,
	} {
		args := append([]string{"--wait", "--table", "mangle", "--append"}, strings.Fields(rule)...)
		if out, err := exec.CommandContext(ctx, "iptables", args...).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("iptables %s: %w: %s", rule, err, out))
		}
	}
	return errors.Join(errs...)
}
