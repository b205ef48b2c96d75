package executor

import (
	"bytes"
	"encoding/binary"
)

// code is a program of a few instructions.
type code struct {
	machine uint16 // of the ELF header, e_machine
	text    []byte
}

// executable is the program as a file; "" when there is none. It is loaded
// whole, at the place that linkers choose (elf(5)).
func (c code) executable() string {
	if len(c.text) == 0 {
		return ""
	}
	const (
		place   = 0x400000
		headers = 64 + 56
	)
	size := uint64(headers + len(c.text))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01") // 64 bits, little endian
	b.Write(make([]byte, 9))
	for _, field := range []any{
		uint16(2), c.machine, uint32(1), uint64(place + headers), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(place), uint64(place), size, size, uint64(0x10000), // PT_LOAD, read and execute
	} {
		_ = binary.Write(&b, binary.LittleEndian, field) // to memory
	}
	b.Write(c.text)
	return b.String()
}
