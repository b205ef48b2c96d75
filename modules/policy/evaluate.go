package policy

import "drydock/modules/artifact"

// Evaluate holds evidence against a policy.
func Evaluate(in Input) artifact.Verdict {
	return artifact.Verdict{Outcome: artifact.Unknown, Reasons: []artifact.Reason{}}
}

// Admits says whether a verdict under a policy lets an image in.
func Admits(p Policy, v artifact.Verdict) bool {
	return v.Outcome == artifact.Pass || v.Outcome == artifact.Waived
}
