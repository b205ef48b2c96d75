package core

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// buildID names the bytes of a program: the linker's build id, which follows
// from its contents, or where the linker left none the digest of the file.
func buildID(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	defer f.Close()
	if e, err := elf.NewFile(f); err == nil {
		if s := e.Section(".note.go.buildid"); s != nil {
			// a note: three words, the name "Go\0\0", then the id (elf(5))
			if b, err := s.Data(); err == nil && len(b) > 16 {
				sum := sha256.Sum256(b[16:])
				return "go-" + hex.EncodeToString(sum[:12]), nil
			}
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("reading this program: %w", err)
	}
	return "file-" + hex.EncodeToString(sum.Sum(nil)[:12]), nil
}
