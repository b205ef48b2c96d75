// Command stepinit is the first process of a step, a program of its own so
// that starting a step does not start the whole of drydock. The engine carries
// it (package initbin); it is never run by hand.
package main

import (
	"os"

	"drydock/modules/engine/embedded/initproc"
)

func main() { os.Exit(initproc.Main()) }
