package jail

import (
	"fmt"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// LandlockABI is what this kernel offers; 0 is none.
func LandlockABI() int {
	v, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return v
}

// Landlock confines every thread of the process, and what it starts, to the
// rules, as far as the kernel can, and sets no-new-privs. It returns the ABI
// that was applied: 0 says that the kernel has no Landlock and nothing holds.
func Landlock(r FSRules) (abi int, err error) {
	abi = LandlockABI()
	if abi == 0 {
		return 0, nil
	}
	var rules []landlock.Rule
	for _, p := range r.ReadOnly {
		fi, err := os.Stat(p)
		switch {
		case err != nil:
		case fi.IsDir():
			rules = append(rules, landlock.RODirs(p))
		default:
			rules = append(rules, landlock.ROFiles(p))
		}
	}
	for _, p := range r.ReadWrite {
		fi, err := os.Stat(p)
		switch {
		case err != nil:
		case fi.IsDir():
			rules = append(rules, landlock.RWDirs(p).WithRefer())
		default:
			rules = append(rules, landlock.RWFiles(p))
		}
	}
	if err := landlock.V8.BestEffort().RestrictPaths(rules...); err != nil {
		return 0, fmt.Errorf("restricting the file system with landlock: %w", err)
	}
	return abi, nil
}
