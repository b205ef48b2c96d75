package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/jail"
)

// refusedMark makes the test binary probe under a container's seccomp profile.
const refusedMark = "DRYDOCK_CORE_TEST_REFUSED"

// TestProbe: whatever this host gives, the report says it in full.
func TestProbe(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes; not in short mode")
	}
	r, err := Probe(t.Context(), t.TempDir(), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	checkReport(t, r)
}

func checkReport(t *testing.T, r Report) {
	t.Helper()
	for _, f := range r.Findings {
		t.Logf("%+v", f)
		if !f.OK && f.Remedy == "" {
			t.Errorf("no remedy for %s", f.Name)
		}
	}
	works := 0
	for i, w := range r.Ways {
		if w.OK != (len(w.Missing) == 0) {
			t.Errorf("%s: ok %v with %d missing", w.Mode, w.OK, len(w.Missing))
		}
		if w.OK {
			works++
			if i != len(r.Ways)-1 || w.Tier != r.Tier || w.Mode != r.Mode {
				t.Errorf("%s works and is not what is used: %s %s", w.Mode, r.Tier, r.Mode)
			}
		}
		for _, m := range w.Missing {
			if m.Remedy == "" || m.Detail == "" {
				t.Errorf("%s: nothing helps against %+v", w.Mode, m)
			}
		}
	}
	if works > 1 || (works == 1) != (r.Tier != "") {
		t.Errorf("%d ways work, tier %q is used", works, r.Tier)
	}
}

// TestProbeRefused: under the seccomp profile of an ordinary container no user
// namespace can be had, and the report names the profile.
func TestProbeRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes; not in short mode")
	}
	if os.Getenv(refusedMark) != "" {
		probeRefused(t)
		return
	}
	if _, err := jail.DefaultFilter(jail.DefaultCapabilities); err != nil {
		t.Skip(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestProbeRefused$", "-test.v")
	cmd.Env = append(os.Environ(), refusedMark+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func probeRefused(t *testing.T) {
	runtime.LockOSThread()
	if err := jail.NoNewPrivileges(); err != nil {
		t.Fatal(err)
	}
	if st, err := jail.Observe(); err == nil && st.Effective&(1<<8) != 0 { // setpcap
		if err := jail.KeepCapabilities(jail.DefaultCapabilities); err != nil {
			t.Fatal(err)
		}
	}
	filter, err := jail.DefaultFilter(jail.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	if err := filter.Install(); err != nil {
		t.Fatal(err)
	}
	// from a thread started by the confined one, as all of a container's are
	exe := exec.Command("/proc/self/exe", argProbeReport)
	out, err := exe.Output()
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checkReport(t, r)
	if r.Tier == TierNamespaces {
		t.Fatalf("namespaces were had: %+v", r)
	}
	for _, w := range r.Ways {
		switch w.Mode {
		case modeRootless:
			for _, m := range w.Missing {
				if m.Name == knobSeccomp && strings.Contains(m.Detail, "unshare, clone, mount") {
					return
				}
			}
		}
	}
	t.Errorf("the profile is not named: %+v", r.Ways)
}

// argProbeReport makes the test binary print a report.
const argProbeReport = "__probe-report"

func printReport() int {
	r, err := Probe(context.Background(), os.TempDir(), os.Environ())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestMaskedProc(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	lines := []string{
		"1 0 0:1 / / rw - overlay overlay rw", "2 1 0:2 / /proc rw - proc proc rw",
		"3 2 0:2 /bus /proc/bus ro - proc proc rw", "4 1 0:3 / /procedures rw - tmpfs tmpfs rw",
	}
	write := func() {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if got := maskedProc(file); got != "covered: /proc/bus" {
		t.Errorf("got %q", got)
	}
	for _, p := range []string{"fs", "irq", "kcore", "keys"} {
		lines = append(lines, "5 2 0:4 / /proc/"+p+" ro - tmpfs tmpfs rw")
	}
	write()
	if got := maskedProc(file); got != "covered: /proc/bus, /proc/fs, /proc/irq, 2 more" {
		t.Errorf("got %q", got)
	}
	lines = lines[:2]
	write()
	if got := maskedProc(file); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestKnobs: everything that can be missing says what to do, and the names of
// platforms are those that are documented.
func TestKnobs(t *testing.T) {
	for _, name := range []string{
		knobSysAdmin, knobRoot, knobCapabilities, knobSeccomp, knobMaskedProc, knobAppArmor, knobAppArmorUserns,
		knobMaxUserns, knobUsernsClone, knobUserns, knobChrooted, knobNoNewPrivs, knobUidmap, knobUidmapSetuid, knobUidmapCaps,
		knobSubIDs, knobNotify, knobMknod, knobLandlock, knobFilter, knobOpenat2, knobVersion,
	} {
		k := knobs(name)
		if k.remedy == "" {
			t.Errorf("%s: no remedy", name)
		}
		for p := range k.platforms {
			if !strings.Contains(strings.Join(Platforms(), " "), p) {
				t.Errorf("%s: unknown platform %s", name, p)
			}
		}
	}
	if k := knobs("no such thing"); k.remedy != "" {
		t.Errorf("got %+v", k)
	}
}

// TestRefusal: one screen that names every knob, what to do on each platform,
// and the way out.
func TestRefusal(t *testing.T) {
	r := Report{Ways: []WayReport{
		{Tier: TierNamespaces, Mode: modeRoot, Missing: []Missing{missing(knobSysAdmin, "not held")}},
		{Tier: TierNamespaces, Mode: modeRootless, Missing: []Missing{
			missing(knobSeccomp, "refuses unshare"), missing(knobMaskedProc, "covered: /proc/bus"), missing(knobSubIDs, "none"),
			missing(knobNoNewPrivs, "set"), missing(knobUidmap, "not installed"),
		}},
		{Tier: TierNamespaces, Mode: modeSingle, Missing: []Missing{
			missing(knobSeccomp, "refuses unshare"), missing(knobMaskedProc, "covered: /proc/bus"),
		}},
		{Tier: TierContainer, Mode: modeContainer, Missing: []Missing{missing(knobRoot, "this is user 1000")}},
	}}
	got := r.Refusal()
	for _, want := range []string{
		knobSeccomp + ": refuses", knobMaskedProc + ": as above", knobSubIDs, knobUidmap, knobNoNewPrivs, knobRoot + ": this is user 1000",
		"gitlab-docker     T2: ", "hostUsers: false", "azure", "--security-opt seccomp=unconfined; --security-opt systempaths=unconfined",
		"unmask=ALL", "_EXPERIMENTAL_DAGGER_RUNNER_HOST", "DAGGER_SESSION_PORT",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not say %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, knobSysAdmin) {
		t.Errorf("it advises to take %s:\n%s", knobSysAdmin, got)
	}
	if n := strings.Count(got, "\n"); n > 36 {
		t.Errorf("%d lines are more than a screen", n)
	}
	r.Ways = append(r.Ways, WayReport{Tier: TierTranslated, Mode: modeTranslated, Missing: []Missing{missing(knobNoExec, "the state is mounted noexec")}})
	if got := r.Refusal(); !strings.Contains(got, "tier T3, translated mode") || !strings.Contains(got, knobNoExec+": the state") {
		t.Errorf("it does not say what T3 misses:\n%s", got)
	}
	if r.Better() != "" {
		t.Error("something is better than nothing")
	}
	r.Tier, r.Mode = TierTranslated, modeTranslated
	if got := r.Better(); !strings.Contains(got, "container mode") || !strings.Contains(got, knobRoot) || strings.Contains(got, "T3") {
		t.Errorf("better than T3: %s", got)
	}
	r.Tier, r.Mode, r.Ways = TierContainer, modeContainer, r.Ways[:4]
	r.Ways[3].OK, r.Ways[3].Missing = true, nil
	if got := r.Better(); !strings.Contains(got, "single-id mode") || strings.Contains(got, "container mode") {
		t.Errorf("better than T2: %s", got)
	}
	r.Tier, r.Mode = TierNamespaces, modeRootless
	if got := r.Better(); got != "" {
		t.Errorf("better than rootless: %s", got)
	}
}

// A tier that was asked for and does not work says why, and what would help.
func TestRefusalOfTheAsked(t *testing.T) {
	err := WayReport{Tier: TierTranslated, Mode: modeTranslated, Missing: []Missing{
		missing(knobPtrace, "ptrace: not permitted"), missing(knobNoExec, "programs: mounted noexec"),
	}}.refusal()
	var said *artifact.Error
	if !errors.As(err, &said) || said.Kind != artifact.KindFault || said.Place != "T3" {
		t.Fatalf("%#v", err)
	}
	if want := "ptrace: not permitted; programs: mounted noexec"; !strings.Contains(said.Message, want) {
		t.Errorf("%q is not said: %s", want, said.Message)
	}
	for _, knob := range []string{knobPtrace, knobNoExec} {
		if remedy := knobs(knob).remedy; remedy == "" || !strings.Contains(said.Remedy, remedy) {
			t.Errorf("%s: no remedy: %s", knob, said.Remedy)
		}
	}
}
