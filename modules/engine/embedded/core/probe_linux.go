package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

const probeFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Probe tries in child processes what the engine will do and says what this
// host offers to an engine whose state is in root, and what the ways that are
// better than the one it gives miss. The error is about the probing itself.
func Probe(ctx context.Context, root string, environ []string) (Report, error) {
	var report Report
	modes, err := modesOf("")
	if err != nil {
		return Report{}, err
	}
	for _, mode := range modes {
		way, findings, err := probeWay(ctx, mode, root, environ)
		if err != nil {
			return Report{}, err
		}
		report.Ways = append(report.Ways, way)
		if way.OK {
			report.Tier, report.Mode, report.Findings = way.Tier, way.Mode, findings
			break
		}
		report.Findings = append(report.Findings, findings...)
	}
	if report.Tier == TierTranslated {
		report.Findings = append(report.Findings, slower())
	}
	report.Findings = append(report.Findings, resources(root)...)
	return report, nil
}

// probeWay tries one mode.
func probeWay(ctx context.Context, mode, root string, environ []string) (WayReport, []Finding, error) {
	way := WayReport{Tier: tierOf(mode), Mode: mode}
	found, err := probeIn(ctx, mode, root, environ)
	if ctx.Err() != nil {
		return way, nil, context.Cause(ctx)
	}
	started := Finding{Name: mode + " mode", OK: err == nil, Detail: "a process can be started"}
	if err != nil {
		started.Detail = strings.ReplaceAll(err.Error(), "\n", "; ")
		way.Missing = withheld(mode, environ)
	}
	findings := []Finding{started}
	for _, f := range found {
		finding := f.Finding
		if !f.OK && finding.Remedy == "" {
			finding.Remedy = knobs(f.Knob).remedy
			if !f.Optional {
				detail := f.Detail
				if f.Name != f.Knob {
					detail = f.Name + ": " + detail
				}
				way.Missing = merge(way.Missing, missing(f.Knob, detail))
			}
		}
		findings = append(findings, finding)
	}
	way.OK = err == nil && len(way.Missing) == 0
	if err != nil && len(way.Missing) == 0 {
		way.Missing = []Missing{missing(knobUserns, err.Error())}
	}
	if !way.OK && findings[0].Remedy == "" && !findings[0].OK {
		findings[0].Remedy = way.Missing[0].Remedy
	}
	return way, findings, nil
}

// found is what a probing child says of one thing.
type found struct {
	Finding
	Knob string // what turns it on
}

func probeIn(ctx context.Context, mode, root string, environ []string) ([]found, error) {
	// on the state's file system, where that can be: it decides a lot
	dir, err := os.MkdirTemp(nearest(root), "drydock-probe-")
	if err != nil {
		dir, err = os.MkdirTemp("", "drydock-probe-")
	}
	if err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer os.RemoveAll(dir)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer r.Close()
	sp := jail.NewSpawner()
	defer sp.Close()
	cmd, lifeline, err := spawn{
		program: executable(""), arg: argProbe, mode: mode, flags: probeFlags, tmp: dir, files: []*os.File{w}, environ: environ,
	}.start(ctx, sp, []byte(mode))
	w.Close()
	if err != nil {
		return nil, err
	}
	defer lifeline.Close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	var list []found
	err = json.NewDecoder(r).Decode(&list)
	_ = cmd.Wait() // what it found is all it says
	if err != nil {
		return nil, fmt.Errorf("probing in %s mode: %w", mode, err)
	}
	return list, nil
}

// probeMain is the probing child: it does once each thing a step needs in the
// mode its first line of input names.
func probeMain(in *bufio.Reader, out *os.File) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("waiting for the parent: %w", err)
	}
	var p prober
	switch strings.TrimSpace(string(line)) {
	case modeContainer:
		p.container()
	case modeTranslated:
		p.translated()
	case modeSingle:
		p.namespaces()
		p.keeper()
	default:
		p.namespaces()
	}
	return json.NewEncoder(out).Encode(p.list)
}

// prober collects what a probing child finds.
type prober struct{ list []found }

func (p *prober) try(name, knob string, f func() (string, error)) {
	detail, err := f()
	finding := found{Finding: Finding{Name: name, OK: err == nil, Detail: detail}, Knob: knob}
	if err != nil {
		finding.Detail = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	p.list = append(p.list, finding)
}

// optional marks the last one.
func (p *prober) optional(remedy string) {
	last := &p.list[len(p.list)-1]
	last.Optional = true
	if !last.OK {
		last.Remedy = remedy
	}
}

// refuser is the knob that most likely keeps a new mount namespace from
// mounting.
func refuser() string {
	switch {
	case len(withheldUserns()) > 0:
		return withheldUserns()[0].Name
	case appArmorProfile() != "":
		return knobAppArmor
	}
	return knobSeccomp
}

// namespaces tries what steps in namespaces of their own need.
func (p *prober) namespaces() {
	p.try("mount", refuser(), func() (string, error) {
		return "private mounts", errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), mountOnce("tmpfs", ""))
	})
	p.try("proc", knobMaskedProc, func() (string, error) {
		return "can be mounted", mountOnce("proc", "")
	})
	p.try("overlay", "", probeOverlay)
	p.optional("use a Linux of 5.11 or newer and a file system overlay accepts; without it every step copies its root")
	p.try("pivot_root", knobSeccomp, func() (string, error) { return "can be called", ableToPivot() })
	p.try("network", knobSysAdmin, func() (string, error) { return "may be set up", ableToNetwork() })
	p.try("loopback", refuser(), func() (string, error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return "", err
		}
		return "can be brought up", netlink.LinkSetUp(lo)
	})
	p.try("openat2", knobOpenat2, probeOpenat2)
	p.try("landlock", knobLandlock, probeLandlockABI)
	p.optional("steps are confined without it; a Linux of 5.13 or newer with landlock in its lsm= list has it")
	p.filter()
	p.foreign()
}

func probeLandlockABI() (string, error) {
	abi := jail.LandlockABI()
	if abi == 0 {
		return "", errors.New("this kernel does not have it, or a filter refuses it")
	}
	return fmt.Sprintf("ABI %d", abi), nil
}

func (p *prober) filter() {
	p.try("seccomp filter", knobFilter, func() (string, error) {
		filter, err := jail.DefaultFilter(jail.DefaultCapabilities)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d instructions", len(filter)), onThread(func() error {
			return errors.Join(jail.NoNewPrivileges(), filter.Install())
		})
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	return <-done
}

// mountOnce mounts a file system and unmounts it.
func mountOnce(fstype, data string) error {
	dir, err := os.MkdirTemp("", "mount")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mounting %s: %w", fstype, err)
	}
	return unix.Unmount(dir, 0)
}

func probeOverlay() (string, error) {
	dir, err := os.MkdirTemp("", "overlay")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := tryOverlay(dir); err != nil {
		return "", err
	}
	return "can be mounted", nil
}
