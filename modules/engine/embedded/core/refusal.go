package core

import (
	"fmt"
	"slices"
	"strings"

	"drydock/modules/artifact"
)

// remoteEngine is the way that needs nothing of this machine.
const remoteEngine = `Or build on another machine: name a Dagger Engine with
  _EXPERIMENTAL_DAGGER_RUNNER_HOST=tcp://HOST:PORT and _EXPERIMENTAL_DAGGER_CLI_BIN,
  or with DAGGER_SESSION_PORT and DAGGER_SESSION_TOKEN as dagger run sets them.
`

// Refusal says, on one screen, that nothing can be built here and what would
// change that. It is what doctor and a run say when no tier works.
func (r Report) Refusal() string {
	return "No way of running build steps works here. Any one of these would do:\n" + r.ways(nil) + remoteEngine
}

// refusal says what keeps a way from working that was asked for, in a line.
func (w WayReport) refusal() error {
	var seen, remedies []string
	for _, m := range w.Missing {
		seen, remedies = append(seen, m.Detail), append(remedies, m.Remedy)
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "starting the engine", Place: w.Tier,
		Message: "this tier was asked for and cannot be had here: " + strings.Join(seen, "; "),
		Remedy:  strings.Join(slices.Compact(remedies), "; "),
	}
}

// Better says what the ways miss that are better than the one that is used;
// "" when there is none.
func (r Report) Better() string {
	if r.Tier == "" || r.Mode == modeRoot || r.Mode == modeRootless {
		return ""
	}
	return r.ways([]string{r.Mode})
}

// ways lists what each way misses, a thing that several miss with the first,
// and then how to turn it on by where the job's container comes from. To have
// CAP_SYS_ADMIN is no advice, so root's own way is left out.
func (r Report) ways(but []string) string {
	var b strings.Builder
	var told []Missing
	how := map[string][]string{} // platform and tier: settings
	for _, w := range slices.Backward(r.Ways) {
		if w.Mode == modeRoot || slices.Contains(but, w.Mode) {
			continue
		}
		fmt.Fprintf(&b, "  tier %s, %s mode: %s\n", w.Tier, w.Mode, modeMeaning(w.Mode))
		for _, m := range w.Missing {
			if merged := merge(told, m); len(merged) == len(told) {
				fmt.Fprintf(&b, "    %s: as above\n", m.Name)
				continue
			}
			told = append(told, m)
			fmt.Fprintf(&b, "    %s: %s\n", m.Name, m.Detail)
			if len(m.Platforms) == 0 {
				fmt.Fprintf(&b, "      %s\n", m.Remedy)
			}
			for platform, setting := range m.Platforms {
				how[platform+w.Tier] = append(how[platform+w.Tier], setting)
			}
		}
	}
	if len(how) > 0 {
		b.WriteString("How, by where the job's container comes from:\n")
	}
	for _, platform := range Platforms() {
		name := platform
		for _, tier := range []string{TierContainer, TierNamespaces} {
			if settings := how[platform+tier]; len(settings) > 0 {
				fmt.Fprintf(&b, "  %-17s %s: %s\n", name, tier, strings.Join(settings, "; "))
				name = ""
			}
		}
	}
	return b.String()
}

func modeMeaning(mode string) string {
	return map[string]string{
		modeRoot:       "every step in namespaces of its own",
		modeRootless:   "every step in namespaces of its own, several user ids",
		modeSingle:     "every step in namespaces of its own, one user id",
		modeContainer:  "an ordinary container, as its root",
		modeTranslated: "an ordinary container, as any user; slower",
	}[mode]
}
