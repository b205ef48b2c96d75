// Package conformance holds the suite of the Dagger API that modules rely on.
// It is written against *dagger.Client only and runs on the embedded engine
// always, and on a Dagger Engine too when the environment names one, with the
// same results, error kinds and file contents.
package conformance
