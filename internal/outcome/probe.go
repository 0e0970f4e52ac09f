package outcome

// Probe is what a step has found of one thing that it needs, where it only looks whether all is there (the parameter
// check-only). A step prints each as a line of JSON.
type Probe struct {
	Check   string `json:"check"`          // a short name, such as registry-push
	Where   string `json:"where"`          // what was asked, such as a repository
	Reason  Reason `json:"reason"`         // Succeeded, or why not
	Message string `json:"message"`        // how it is
	Hint    string `json:"hint,omitempty"` // what to do about it
	Minor   bool   `json:"minor"`          // the step can do without it
}
