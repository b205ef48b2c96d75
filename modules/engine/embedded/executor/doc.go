// Package executor runs the steps of the embedded engine: each in namespaces
// of its own under an init of ours, with a container's privileges, and with
// no network but the mirror gateway.
package executor
