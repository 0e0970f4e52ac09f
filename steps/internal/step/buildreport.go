package step

import "github.com/stepwright/stepwright/internal/buildreport"

// LeaveBuildReport leaves the report of a build. One that cannot be written is no reason to fail.
func (e Environment) LeaveBuildReport(r buildreport.Report) {
	raw, err := r.Encode(e.Secrets.String)
	if err != nil {
		e.Log.Warn("There is no report of the build", "error", err)
		return
	}
	e.Leave(buildreport.Name, raw)
}
