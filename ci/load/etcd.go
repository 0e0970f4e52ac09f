package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// etcdURL is where ci/cluster has etcd listen.
const etcdURL = "http://127.0.0.1:2379"

// stored is how many objects of a kind etcd holds, and their bytes.
type stored struct {
	Objects int
	Bytes   int64
}

// kindOf is the resource in an object's key: /registry/pods/acme/x, or /registry/argoproj.io/workflows/acme/x.
func kindOf(key string) string {
	parts := strings.Split(strings.TrimPrefix(key, "/registry/"), "/")
	if strings.Contains(parts[0], ".") && len(parts) > 1 {
		return parts[1]
	}
	return parts[0]
}

// etcdPage is how many objects are asked for at once.
const etcdPage = 50

// inEtcd counts what etcd holds, by resource.
func inEtcd(ctx context.Context, url string) (map[string]stored, error) {
	all := map[string]stored{}
	type pair struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	for from := []byte("/registry/"); ; {
		body, err := json.Marshal(map[string]any{"key": from, "range_end": []byte("/registry0"), "limit": etcdPage})
		if err != nil {
			return nil, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/kv/range", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Pairs []pair `json:"kvs"`
			More  bool   `json:"more"`
		}
		err = json.NewDecoder(response.Body).Decode(&answer)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("ask etcd: %s", response.Status)
		}
		if err != nil {
			return nil, fmt.Errorf("ask etcd: %w", err)
		}
		for _, p := range answer.Pairs {
			s := all[kindOf(string(p.Key))]
			all[kindOf(string(p.Key))] = stored{s.Objects + 1, s.Bytes + int64(len(p.Key)+len(p.Value))}
		}
		if !answer.More || len(answer.Pairs) == 0 {
			return all, nil
		}
		from = append(answer.Pairs[len(answer.Pairs)-1].Key, 0)
	}
}

// more is what etcd holds now and did not before, by resource. What is no run's, such as leases and events of an hour,
// is in it as it is.
func more(now, before map[string]stored) map[string]stored {
	all := map[string]stored{}
	for kind, s := range now {
		if d := (stored{s.Objects - before[kind].Objects, s.Bytes - before[kind].Bytes}); d.Objects != 0 {
			all[kind] = d
		}
	}
	return all
}
