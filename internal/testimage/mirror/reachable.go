package mirror

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Reachable tells whether the registries of the real images answer, within seconds. Then nobody needs stand-ins.
func Reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, endpoint := range []string{"https://registry-1.docker.io/v2/", "https://gcr.io/v2/"} {
		group.Go(func() error { return answers(ctx, endpoint) })
	}
	return group.Wait() == nil
}

// answers tells whether a registry is there: it lets in or asks for a token. A proxy that refuses does neither.
func answers(ctx context.Context, endpoint string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s answered %s", endpoint, response.Status)
	}
	return nil
}
