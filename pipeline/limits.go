package main

import (
	"slices"
	"strconv"
	"strings"

	"drydock/modules/engine"
)

// leastLimits: with less no step runs, so that less is a mistake.
func leastLimits() engine.Limits {
	return engine.Limits{Memory: 16 << 20, Processes: 8, Disk: 1 << 20, FreeDisk: 1, Files: 16, Output: 1 << 10}
}

// parseLimits reads memory=4GiB,processes=4096; "" is none. What is not named
// is 0, the engine's default.
func parseLimits(flag, text string) (engine.Limits, error) {
	var out engine.Limits
	least := leastLimits()
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	sizes := map[string][2]*int64{
		"memory": {&out.Memory, &least.Memory}, "disk": {&out.Disk, &least.Disk},
		"free-disk": {&out.FreeDisk, &least.FreeDisk}, "output": {&out.Output, &least.Output},
	}
	counts := map[string][2]*int{"processes": {&out.Processes, &least.Processes}, "files": {&out.Files, &least.Files}}
	var seen []string
	for _, item := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		if slices.Contains(seen, name) {
			return out, badValue(flag, item, "given twice", "name each limit once")
		}
		seen = append(seen, name)
		if size, ok := sizes[name]; ok {
			n, err := parseSize(flag, value)
			if err != nil || n < *size[1] {
				return out, badValue(flag, item, "not a size a step can do with", "write it as "+name+"=4GiB, at least "+strconv.FormatInt(*size[1], 10)+" bytes")
			}
			*size[0] = n
			continue
		}
		count, ok := counts[name]
		if !ok {
			return out, badValue(flag, item, "no such limit", "one of memory, processes, disk, free-disk, files, output, each as NAME=VALUE")
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < *count[1] {
			return out, badValue(flag, item, "not a number a step can do with", "write it as "+name+"=4096, at least "+strconv.Itoa(*count[1]))
		}
		*count[0] = n
	}
	return out, nil
}

// parseABI reads a version of Landlock; 0, none, is -1 as the engine has it.
func parseABI(flag, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badValue(flag, text, "not a version of Landlock", "give 0 for none, or 1 and more")
	}
	if n == 0 {
		return -1, nil
	}
	return n, nil
}
