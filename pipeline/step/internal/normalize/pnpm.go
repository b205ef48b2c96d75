package normalize

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

const maxPnpm = 32 << 20

// Where pnpm writes when it did something, and how: in what it says of
// node_modules, of its store and of itself.
var (
	pnpmFile = regexp.MustCompile(`(^|/)(node_modules/\.(modules\.yaml|pnpm-workspace-state\.json)|pnpm/(store/v[0-9]+/(index/.+|files/.+-index)\.json|metadata[^/]*/.+\.json|pnpm-state\.json))$`)
	pnpmDate = regexp.MustCompile(`"?(prunedAt|lastUpdateCheck)"?: "?([A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)`)
	pnpmTime = regexp.MustCompile(`"(lastValidatedTimestamp|checkedAt|cachedAt)": ?(\d{13})\b`)
)

// steadyPnpm is a file of pnpm's with no time after the epoch; nil when it has
// none. What pnpm compares these with, times of files, are the epoch's as well.
func steadyPnpm(plain io.ReaderAt, e entry, epoch time.Time) ([]byte, error) {
	if e.header.Size > maxPnpm {
		return nil, nil
	}
	raw := make([]byte, e.header.Size)
	if _, err := plain.ReadAt(raw, e.offset); err != nil && err != io.EOF {
		return nil, err
	}
	changed := false
	put := func(text []byte, at *regexp.Regexp, later func(string) bool, now string) []byte {
		var out []byte
		end := 0
		for _, m := range at.FindAllSubmatchIndex(text, -1) {
			if from, to := m[4], m[5]; later(string(text[from:to])) {
				out, end, changed = append(append(out, text[end:from]...), now...), to, true
			}
		}
		return append(out, text[end:]...)
	}
	raw = put(raw, pnpmDate, func(s string) bool {
		t, err := http.ParseTime(s)
		return err == nil && t.After(epoch)
	}, epoch.UTC().Format(http.TimeFormat))
	raw = put(raw, pnpmTime, func(s string) bool {
		ms, err := strconv.ParseInt(s, 10, 64)
		return err == nil && ms > epoch.UnixMilli()
	}, strconv.FormatInt(epoch.UnixMilli(), 10))
	if !changed {
		return nil, nil
	}
	return raw, nil
}
