package main

import "context"

func runVulnDB(context.Context, []string, streams) error { return usage("todo") }
