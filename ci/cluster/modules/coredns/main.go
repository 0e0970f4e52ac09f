// Command coredns is CoreDNS with the few plugins that a cluster needs: all of them would link the libraries of three
// clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which the plugins see a query.
	dnsserver.Directives = []string{"errors", "health", "ready", "cache", "loadbalance", "template", "kubernetes"}
	coremain.Run()
}
