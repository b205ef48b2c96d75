package mirror

import (
	"path/filepath"
	"time"

	"drydock/modules/mirror/internal/store"
)

// StoreUsage is what the content store holds.
type StoreUsage = store.Usage

// StorePrune says what of the content store may go: MaxBytes, OlderThan. Zero
// values do not limit.
type StorePrune = store.PruneOptions

func storeDir(cacheDir string) string { return filepath.Join(cacheDir, "mirror") }

// Stored measures the content store of a cache directory.
func Stored(cacheDir string) (StoreUsage, error) { return store.Open(storeDir(cacheDir)).Usage() }

// PruneStore removes files from the content store of a cache directory, the
// least recently used first. What a process that runs has used stays.
func PruneStore(cacheDir string, o StorePrune) (StoreUsage, error) {
	return store.Open(storeDir(cacheDir)).Prune(o)
}

// EmptyStore removes all that no process that runs has used.
func EmptyStore(cacheDir string) (StoreUsage, error) {
	return PruneStore(cacheDir, StorePrune{OlderThan: time.Nanosecond})
}

// DefaultQuota is how much the content store of a cache directory keeps, in
// bytes, when nobody says: a tenth of the disk; 0 where that cannot be asked.
func DefaultQuota(cacheDir string) int64 { return diskSize(cacheDir) / 10 }

// Use notes that this process uses the content store: others prune nothing that
// it has used. The function returned ends that and keeps the store to a quota,
// in bytes; 0 is the default one.
func (s *Set) Use(cacheDir string, quota int64) (end func() error, err error) {
	release, err := s.store.Register()
	if err != nil {
		return nil, err
	}
	return func() error {
		release()
		if quota == 0 {
			quota = DefaultQuota(cacheDir)
		}
		if quota == 0 {
			return nil
		}
		_, err := s.store.Prune(StorePrune{MaxBytes: quota})
		return err
	}, nil
}
