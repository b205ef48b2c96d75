package catalog

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Alias is a tag that moves from one image to the next, as latest does.
type Alias struct {
	Tag    string `yaml:"tag"`              // template, as those of tags
	Newest string `yaml:"newest,omitempty"` // axis or argument: of the variants with the same tag, the one with its newest version has it
}

var (
	templatePattern = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}`)
	versionPattern  = regexp.MustCompile(`^(v?\d+)(?:\.(\d+))?`)
)

const tagRemedy = "write letters, digits, dots, dashes and underscores, at most 128; ${NAME} is the value of an axis or argument, ${NAME:major} and ${NAME:minor} begin its version"

// checkTags gives every variant the tags it is published under at promotion.
// Two variants never have the same one: the later would take it from the other.
func (l *loader) checkTags(s source, img *Image) {
	owners := map[string]string{} // tag to the place it is defined at
	for i, template := range img.Tags {
		at := s.at("tags", strconv.Itoa(i))
		for j := range img.Variants {
			if tag, ok := l.expandTag(at, template, &img.Variants[j]); !ok || !l.giveTag(at, tag, owners, &img.Variants[j]) {
				break
			}
		}
	}
	for i, a := range img.Aliases {
		l.checkAlias(s.at("aliases", strconv.Itoa(i)), a, img, owners)
	}
}

// checkAlias gives an alias to the newest of the variants that share it.
func (l *loader) checkAlias(at string, a Alias, img *Image, owners map[string]string) {
	best := map[string]*Variant{}
	var order []string
	for j := range img.Variants {
		v := &img.Variants[j]
		tag, ok := l.expandTag(at, a.Tag, v)
		if !ok {
			return
		}
		have := best[tag]
		if have == nil {
			best[tag] = v
			order = append(order, tag)
			continue
		}
		remedy := "add newest: and the axis whose newest version it is for, or put an axis into the tag"
		if a.Newest != "" {
			c, ok := compareVersions(v.Args[a.Newest], have.Args[a.Newest])
			if ok && c > 0 {
				best[tag] = v
			}
			if ok && c != 0 {
				continue
			}
			remedy = "put the other axes into the tag, so that one variant is the newest, and give " + a.Newest + " versions as values"
		}
		l.fail(at, "alias %s is for variants %s and %s", tag, have.Name, v.Name).Remedy = remedy
		return
	}
	for _, tag := range order {
		if !l.giveTag(at, tag, owners, best[tag]) {
			return
		}
	}
}

// giveTag makes a tag a variant's, unless it is taken.
func (l *loader) giveTag(at, tag string, owners map[string]string, v *Variant) bool {
	if other, taken := owners[tag]; taken {
		l.fail(at, "tag %s is there twice, also at %s", tag, other).Remedy = "put an axis of the matrix into the tag, or remove one of them"
		return false
	}
	owners[tag] = at
	v.Tags = append(v.Tags, tag)
	return true
}

// expandTag puts a variant's values into a template.
func (l *loader) expandTag(at, template string, v *Variant) (string, bool) {
	var wrong, remedy string
	tag := templatePattern.ReplaceAllStringFunc(template, func(m string) string {
		parts := templatePattern.FindStringSubmatch(m)
		value, ok := v.Args[parts[1]]
		if !ok {
			wrong, remedy = parts[1]+" is neither an axis nor an argument", "name one of the image's args or axes"
			return ""
		}
		part, ok := versionPart(value, parts[2])
		if !ok {
			wrong, remedy = fmt.Sprintf("%s is %q, which has no %s", parts[1], value, parts[2]), "write ${"+parts[1]+"}, or :major or :minor of a version that has it"
		}
		return part
	})
	if wrong == "" && !tagPattern.MatchString(tag) {
		wrong, remedy = fmt.Sprintf("%q is not a tag", tag), tagRemedy
	}
	if wrong != "" {
		l.fail(at, "tag %s: %s", template, wrong).Remedy = remedy
		return "", false
	}
	return tag, true
}

// versionPart is a version, or its beginning: v1 or v1.2 of v1.2.3.
func versionPart(value, part string) (string, bool) {
	m := versionPattern.FindStringSubmatch(value)
	switch {
	case part == "":
		return value, true
	case m == nil:
		return "", false
	case part == "major":
		return m[1], true
	case part == "minor" && m[2] != "":
		return m[1] + "." + m[2], true
	}
	return "", false
}

// compareVersions compares dotted numbers; false when one of them is none.
func compareVersions(a, b string) (int, bool) {
	as, bs := strings.Split(strings.TrimPrefix(a, "v"), "."), strings.Split(strings.TrimPrefix(b, "v"), ".")
	for i := range max(len(as), len(bs)) {
		x, y := 0, 0
		var err, err2 error
		if i < len(as) {
			x, err = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, err2 = strconv.Atoi(bs[i])
		}
		if err != nil || err2 != nil {
			return 0, false
		}
		if x != y {
			return x - y, true
		}
	}
	return 0, true
}
