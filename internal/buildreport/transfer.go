package buildreport

import (
	"encoding/json"
	"errors"
	"fmt"
)

// TransferName is the name of a transfer's file among the results of publish-image, and of the output parameter that
// has its content.
const TransferName = "transfer"

// Transfer is what publishing an image came to: which of its blobs were uploaded, which the registry had in the
// repository already, and which it took over from other repositories.
type Transfer struct {
	Uploaded Blobs `json:"uploaded"`
	Skipped  Blobs `json:"skipped"`
	Mounted  Blobs `json:"mounted"`
}

// Blobs counts blobs, and their bytes together.
type Blobs struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
}

// Encode writes the transfer as JSON.
func (t Transfer) Encode() ([]byte, error) { return json.Marshal(t) }

// transferLimit is how large a transfer is at most, in bytes.
const transferLimit = 1 << 10

// ParseTransfer reads a transfer, which may be a stranger's.
func ParseTransfer(raw []byte) (t Transfer, err error) {
	if len(raw) > transferLimit {
		return t, fmt.Errorf("a transfer of %d bytes, which are more than %d", len(raw), transferLimit)
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return Transfer{}, fmt.Errorf("transfer: %w", err)
	}
	for _, b := range []Blobs{t.Uploaded, t.Skipped, t.Mounted} {
		if b.Count < 0 || b.Count > largestBytes || b.Bytes < 0 || b.Bytes > largestBytes {
			return Transfer{}, errors.New("transfer: a number is beyond its bounds")
		}
	}
	return t, nil
}

// SizeText is a number of bytes as logs and pages show it.
func SizeText(bytes int64) string {
	switch {
	case bytes >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
	case bytes >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	case bytes >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%d B", bytes)
}
