package step

// Owner is the component that an image is for. Steps that make or push one embed it in their Parameters.
type Owner struct {
	Namespace string `json:"namespace-name"`
	Project   string `json:"project-name"`
	Component string `json:"component-name"`
}

// OwnerLabel is the label of an image, and of a build's cache, that tells its Owner.
const OwnerLabel = "dev.stepwright.owner"

// Label returns the value of OwnerLabel, namespace/project/component. It is empty when one of them is: an image
// without a component has no owner.
func (o Owner) Label() string {
	if o.Namespace == "" || o.Project == "" || o.Component == "" {
		return ""
	}
	return o.Namespace + "/" + o.Project + "/" + o.Component
}
