package initbin

import (
	"bytes"
	"os"
	"testing"
)

func TestMemoryIsSealed(t *testing.T) {
	f, err := Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Fd() < lowestFD {
		t.Errorf("descriptor %d is in the way of a started process's", f.Fd())
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the program in memory can be written")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("the program in memory can be emptied")
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path, err := Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what was written is not the program")
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o500 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := Write(dir + "/missing"); err == nil {
		t.Error("writing into a missing directory went well")
	}
}
