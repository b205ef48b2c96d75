package core

// The modes: how steps of a tier are given what they need.
const (
	modeRoot       = "root"       // T1 in the user namespace we are in
	modeRootless   = "rootless"   // T1 in a user namespace of several ids
	modeSingle     = "single-id"  // T1 in a user namespace of one id
	modeContainer  = "container"  // T2: no namespaces at all
	modeTranslated = "translated" // T3: no capabilities either
)
