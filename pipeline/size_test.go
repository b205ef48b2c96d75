package main

import (
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "0": 0, "17": 17, "20GB": 20_000_000_000, "1.5GiB": 3 << 29, "500M": 500_000_000, "2kib": 2048, "1t": 1e12,
	} {
		if got, err := parseSize("max-size", text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"-1", "GB", "1XB", "1e400", "99999999T", "nan", "1 GB x"} {
		if got, err := parseSize("max-size", text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "90m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1.5d": 36 * time.Hour,
	} {
		if got, err := parseAge("older-than", text); err != nil || got != want {
			t.Errorf("%q: got %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"7", "-2d", "d", "1y"} {
		if got, err := parseAge("older-than", text); err == nil {
			t.Errorf("%q: got %s", text, got)
		}
	}
}
