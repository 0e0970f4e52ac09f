package portal

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// mapping has the keys of a mapping of the chart, with the mappings in it; nil for what is not looked into.
type mapping map[string]mapping

// chart are the Helm values of the portal in OpenChoreo's chart.
var chart = mapping{"backstage": {
	"affinity": nil, "appConfig": nil, "autoscaling": nil, "baseUrl": nil, "catalogSync": nil,
	"containerSecurityContext": nil, "database": nil, "enabled": nil, "env": nil, "extraArgs": nil, "extraEnv": nil,
	"extraVolumeMounts": nil, "extraVolumes": nil, "features": nil, "http": nil, "image": nil, "metrics": nil,
	"name": nil, "networkPolicy": nil, "nodeSelector": nil, "observability": nil, "openchoreoApi": nil,
	"podDisruptionBudget": nil, "podSecurityContext": nil, "priorityClass": nil, "replicas": nil, "resources": nil,
	"secretName": nil, "service": nil, "serviceAccount": nil, "tls": nil, "tolerations": nil,
	"topologySpreadConstraints": nil,
	"auth": {
		"clientId": nil, "oidcScope": nil, "redirectUrls": nil, "scope": nil, "serviceClientId": nil,
		"serviceClientSecretKey": nil,
	},
	"externalCI": {
		"jenkins":       {"baseUrl": nil, "enabled": nil, "username": nil},
		"githubActions": {"apiBaseUrl": nil, "enabled": nil, "host": nil, "oauth": {"clientId": nil}},
	},
}}

// checkKeys finds keys that the chart does not have. Of external CI every one is a fault, for nothing else may stand
// there; elsewhere only one that is spelt almost as a key of the chart, since later charts have more.
func checkKeys(o *objects.Object) []objects.Fault {
	values, err := objects.Decode[map[string]any](o)
	if err != nil {
		return nil
	}
	var faults []objects.Fault
	var walk func(values map[string]any, known mapping, strict bool, path []string)
	walk = func(values map[string]any, known mapping, strict bool, path []string) {
		names := slices.Sorted(maps.Keys(known))
		for _, key := range slices.Sorted(maps.Keys(values)) {
			at := append(slices.Clip(path), key)
			inner, there := known[key]
			meant := ""
			if !there {
				meant = near(key, names)
			}
			switch {
			case meant != "":
				faults = append(faults, o.Fault(at, "", fmt.Sprintf(
					"the chart has no such value; is %s meant?", meant,
				)))
			case !there && strict:
				faults = append(faults, o.Fault(at, "", fmt.Sprintf(
					"the chart has no such value; there is %s", strings.Join(names, ", "),
				)))
			}
			if deeper, is := values[key].(map[string]any); is && inner != nil {
				walk(deeper, inner, strict || key == "externalCI", at)
			}
		}
	}
	walk(*values, chart, false, nil)
	return faults
}

// near returns the name that a text is almost: the same but for capitals and separators, or two letters apart. It is
// empty for one that is among them.
func near(text string, names []string) string {
	if slices.Contains(names, text) {
		return ""
	}
	bare := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "", ".", "", "/", "").Replace(s))
	}
	best, found := 3, ""
	for _, name := range names {
		a, b := bare(text), bare(name)
		if d := levenshtein.Distance(a, b, nil); d < best && 3*d < len(b) {
			best, found = d, name
		}
	}
	return found
}
