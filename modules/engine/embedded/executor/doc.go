// Package executor runs the steps of the embedded engine: each in namespaces
// of its own under an init of ours, with a container's privileges, and with
// no network but the mirror gateway.
package executor

// The tiers in which steps can be run.
const (
	TierNamespaces = "T1" // every step in namespaces of its own
	TierContainer  = "T2" // no namespaces: chroot, Landlock and a supervised filter
	TierTranslated = "T3" // no capabilities either: paths and ids are translated
)
