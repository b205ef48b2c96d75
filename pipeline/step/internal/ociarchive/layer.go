package ociarchive

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Media types of the OCI image specification.
const (
	MediaTypeIndex     = "application/vnd.oci.image.index.v1+json"
	MediaTypeManifest  = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeConfig    = "application/vnd.oci.image.config.v1+json"
	MediaTypeLayer     = "application/vnd.oci.image.layer.v1.tar"
	MediaTypeLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// Budget bounds how much may come out of compressed layers.
type Budget struct{ Left int64 }

// zstdWindow bounds the memory a zstd layer may ask for.
const zstdWindow = 128 << 20

// Decompress reads a layer's tar whatever it is compressed with, found by its
// first bytes. The media type returned is OCI's for that form. It fails once
// more than the budget has come out, and takes what came out from the budget.
func Decompress(r io.Reader, b *Budget) (io.ReadCloser, string, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, "", fmt.Errorf("opening gzip layer: %w", err)
		}
		return &bounded{r: z, rest: br, close: z.Close, budget: b}, MediaTypeLayerGzip, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(uint64(max(b.Left, 1))), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, "", fmt.Errorf("opening zstd layer: %w", err)
		}
		return &bounded{r: z, rest: br, close: func() error { z.Close(); return nil }, budget: b}, MediaTypeLayerZstd, nil
	default:
		return &bounded{r: br, rest: br, close: func() error { return nil }, budget: b}, MediaTypeLayer, nil
	}
}

// bounded counts what comes out and, at the end, reads the compressed side to
// its end too, so that its digest is checked.
type bounded struct {
	r      io.Reader
	rest   io.Reader
	close  func() error
	budget *Budget
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.budget.Left -= int64(n)
	if b.budget.Left < 0 {
		return n, fmt.Errorf("layers unpack to more than is allowed: a decompression bomb, or raise --max-bytes")
	}
	if err == io.EOF {
		if _, rest := io.Copy(io.Discard, b.rest); rest != nil {
			return n, rest
		}
	}
	return n, err
}

func (b *bounded) Close() error { return b.close() }
