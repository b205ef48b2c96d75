package main

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"drydock/modules/artifact"
)

// units of sizes: SI as disks are sold, and with an i those of memory.
var units = map[string]float64{
	"": 1, "B": 1,
	"K": 1e3, "KB": 1e3, "KIB": 1 << 10,
	"M": 1e6, "MB": 1e6, "MIB": 1 << 20,
	"G": 1e9, "GB": 1e9, "GIB": 1 << 30,
	"T": 1e12, "TB": 1e12, "TIB": 1 << 40,
}

// parseSize reads bytes: 20GB, 1.5GiB, 500M; 0 for "".
func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit := splitUnit(text)
	factor, known := units[strings.ToUpper(unit)]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || n < 0 || n*factor >= math.MaxInt64 {
		return 0, badValue(flag, text, "not a size", "write it as 20GB, 1.5GiB or 500M")
	}
	return int64(n * factor), nil
}

// parseAge reads a duration that may be in days or weeks too; 0 for "".
func parseAge(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if number, unit := splitUnit(text); err != nil && (unit == "d" || unit == "w") {
		var n float64
		n, err = strconv.ParseFloat(number, 64)
		if unit == "w" {
			n *= 7
		}
		d = time.Duration(n * 24 * float64(time.Hour))
	}
	if err != nil || d < 0 {
		return 0, badValue(flag, text, "not a duration", "write it as 12h, 7d or 2w")
	}
	return d, nil
}

func splitUnit(text string) (number, unit string) {
	i := strings.IndexFunc(text, unicode.IsLetter)
	if i < 0 {
		return text, ""
	}
	return strings.TrimSpace(text[:i]), text[i:]
}

func badValue(flag, text, message, remedy string) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading command line", Place: "--" + flag + " " + text, Message: message, Remedy: remedy,
	}
}
