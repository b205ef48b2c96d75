package bom

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sort"
	"time"

	"drydock/modules/artifact"
)

// document is a JSON object as it is.
type document = map[string]any

// steady decodes a document, takes out what differs from run to run and
// encodes it with its keys sorted.
func steady(raw []byte, o Options, manifest artifact.Digest, mend func(document, Options, artifact.Digest)) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var d document
	if err := dec.Decode(&d); err != nil {
		return nil, err
	}
	mend(d, o, manifest)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(d)
	return buf.Bytes(), err
}

// steadySPDX derives the namespace from the image; SPDX asks only that it is
// unique to the document, and this document is unique to the image.
func steadySPDX(d document, o Options, manifest artifact.Digest) {
	d["documentNamespace"] = "https://drydock.dev/spdx/" + manifest.Hex()
	if c, ok := d["creationInfo"].(document); ok {
		c["created"] = o.Epoch.UTC().Format(time.RFC3339)
	}
	for key, by := range map[string][]string{
		"packages":                   {"SPDXID"},
		"files":                      {"SPDXID"},
		"relationships":              {"spdxElementId", "relationshipType", "relatedSpdxElement"},
		"hasExtractedLicensingInfos": {"licenseId"},
	} {
		sortObjects(d[key], by...)
	}
}

// steadyCycloneDX derives the serial number from the image.
func steadyCycloneDX(d document, o Options, manifest artifact.Digest) {
	d["serialNumber"] = "urn:uuid:" + derivedUUID("cyclonedx "+string(manifest))
	if m, ok := d["metadata"].(document); ok {
		m["timestamp"] = o.Epoch.UTC().Format(time.RFC3339)
	}
	sortObjects(d["components"], "bom-ref")
	sortObjects(d["dependencies"], "ref")
}

func steadySyft(d document, _ Options, _ artifact.Digest) {
	sortObjects(d["artifacts"], "id")
	sortObjects(d["artifactRelationships"], "parent", "child", "type")
	sortObjects(d["files"], "id")
}

// sortObjects orders a list of objects by text fields, then by all they hold.
func sortObjects(list any, by ...string) {
	l, ok := list.([]any)
	if !ok {
		return
	}
	keys := make(map[int]string, len(l))
	order := make([]int, len(l))
	for i, v := range l {
		order[i] = i
		o, _ := v.(document)
		for _, k := range by {
			keys[i] += fmt.Sprint(o[k]) + "\x00"
		}
		rest, _ := json.Marshal(v) // it came from JSON
		keys[i] += string(rest)
	}
	sort.Slice(order, func(i, j int) bool { return keys[order[i]] < keys[order[j]] })
	sorted := make([]any, len(l))
	for i, j := range order {
		sorted[i] = l[j]
	}
	copy(l, sorted)
}

// derivedUUID is a version 8 UUID (RFC 9562, section 5.8) of a text.
func derivedUUID(text string) string {
	sum := sha256.Sum256([]byte(text))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
