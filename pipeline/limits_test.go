package main

import (
	"strings"
	"testing"

	"drydock/modules/engine"
)

func TestParseLimits(t *testing.T) {
	for text, want := range map[string]engine.Limits{
		"":                           {},
		"memory=1GiB":                {Memory: 1 << 30},
		"memory=1GiB, processes=300": {Memory: 1 << 30, Processes: 300},
		"disk=2GB,free-disk=1,files=16,output=1MiB": {Disk: 2e9, FreeDisk: 1, Files: 16, Output: 1 << 20},
	} {
		if got, err := parseLimits("step-limits", text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"memory", "memory=", "memory=0", "memory=1", "memory=lots", "processes=1.5", "processes=0", "time=3s", "files=-1", "=", ",", "disk=1GiB,disk=2GiB"} {
		if got, err := parseLimits("step-limits", text); err == nil || !strings.Contains(err.Error(), "step-limits") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestParseABI(t *testing.T) {
	for text, want := range map[string]int{"": 0, "0": -1, "4": 4} {
		if got, err := parseABI("landlock-abi", text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "x"} {
		if _, err := parseABI("landlock-abi", text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
