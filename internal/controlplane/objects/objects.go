// Package objects reads OpenChoreo's objects from YAML files, keeps the line of every value, and finds what an API
// server would refuse.
package objects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	goyaml "go.yaml.in/yaml/v3"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/yamlline"
)

// Position is a place in a file, or a flag that gave a value.
type Position struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // from 1; 0: none
}

// String is file:line; without a line it is what was given in place of a file.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Fault is one thing that is wrong with the files.
type Fault struct {
	Position
	Object  string `json:"object,omitempty"` // WorkflowRun acme/cart-1
	Field   string `json:"field,omitempty"`  // spec.workflow.name
	Reason  string `json:"reason,omitempty"` // of the condition that OpenChoreo would set
	Message string `json:"message"`
	Then    string `json:"then,omitempty"` // whether OpenChoreo tries it again, where it sets a condition
}

func (f Fault) String() string {
	var parts []string
	if f.File != "" {
		parts = append(parts, f.Position.String())
	}
	for _, part := range []string{f.Object, f.Field, f.Reason, f.Message} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	text := strings.Join(parts, ": ")
	if f.Then != "" {
		text += "; " + f.Then
	}
	return text
}

// Object is one document.
type Object struct {
	Kind, Namespace, Name string

	fields map[string]any // with the defaults of its definition
	file   string
	node   *goyaml.Node // the document's mapping
	offset int          // lines of the file before it

	given map[*goyaml.Node]string // of the node of a value that is not in the file: where it was given
}

func (o *Object) String() string {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return o.Kind + " " + name
}

// At returns where the value is that a path leads to: names, and indices of lists. Where it ends early, so does the
// walk: a missing key is missing from there.
func (o *Object) At(path ...string) Position {
	node, line := o.node, o.node.Line
	for _, step := range path {
		if node.Kind == goyaml.AliasNode {
			node = node.Alias
		}
		next, at := child(node, step)
		if next == nil {
			break
		}
		if given := o.given[next]; given != "" {
			return Position{File: given}
		}
		node, line = next, at
	}
	return Position{o.file, o.offset + line}
}

// child finds one value of a mapping or a sequence, and the line at which a reader looks for it.
func child(node *goyaml.Node, step string) (*goyaml.Node, int) {
	switch node.Kind {
	case goyaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			if key.Value != step {
				continue
			}
			if value.Kind == goyaml.ScalarNode {
				return value, value.Line
			}
			return value, key.Line // a list begins at its first item
		}
	case goyaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, 0
}

// Scalar is a value of a file that YAML 1.1 reads as a number, a boolean or nothing, since it stands there without
// quotes.
type Scalar struct {
	Path    []string
	Written string // as the file has it
	Value   any    // as it is read: int64, float64, bool or nil
}

// Scalars lists those at a path and below, in the order of the file.
func (o *Object) Scalars(path ...string) []Scalar {
	node, value := o.node, any(o.fields)
	for _, step := range path {
		if node = descend(node, step); node == nil {
			return nil
		}
		value = within(value, step)
	}
	budget := mostNodes
	return scalars(node, value, path, &budget)
}

// mostNodes bounds how many values are looked at: aliases can make a small text a huge tree.
const mostNodes = 100_000

func scalars(node *goyaml.Node, value any, path []string, budget *int) []Scalar {
	if *budget--; *budget < 0 {
		return nil
	}
	if node.Kind == goyaml.AliasNode {
		node = node.Alias
	}
	var found []Scalar
	switch node.Kind {
	case goyaml.ScalarNode:
		if _, text := value.(string); !text && node.Style == 0 {
			return []Scalar{{path, node.Value, value}}
		}
	case goyaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i].Value
			object, _ := value.(map[string]any) // of a key that stands twice, it may be the other value
			if inner, there := object[key]; there {
				found = append(found, scalars(node.Content[i+1], inner, append(slices.Clip(path), key), budget)...)
			}
		}
	case goyaml.SequenceNode:
		for i, item := range node.Content {
			step := strconv.Itoa(i)
			found = append(found, scalars(item, within(value, step), append(slices.Clip(path), step), budget)...)
		}
	}
	return found
}

// descend is child without the line, through aliases.
func descend(node *goyaml.Node, step string) *goyaml.Node {
	if node.Kind == goyaml.AliasNode {
		node = node.Alias
	}
	next, _ := child(node, step)
	return next
}

// within returns one value of an object or a list; nil when there is none.
func within(value any, step string) any {
	switch value := value.(type) {
	case map[string]any:
		return value[step]
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(value) {
			return value[i]
		}
	}
	return nil
}

// Quote is the fault of a scalar where text is wanted. arrives is the text that comes of it; empty for none.
func (s Scalar) Quote(arrives string) string {
	read := fmt.Sprintf("the number %v", s.Value)
	switch s.Value.(type) {
	case nil:
		return fmt.Sprintf(
			"%s is read as nothing, as YAML 1.1 does: put it in quotes to keep it as text, or leave it out", s.Written,
		)
	case bool:
		read = fmt.Sprint(s.Value)
	}
	read += ", as YAML 1.1 does"
	if arrives != "" && arrives != fmt.Sprint(s.Value) {
		read += fmt.Sprintf(", and arrives as %q", arrives)
	}
	return fmt.Sprintf("%s is read as %s: put it in quotes to keep it as written", s.Written, read)
}

// Fault is a fault of a field, and is at its line.
func (o *Object) Fault(path []string, reason, message string) Fault {
	return Fault{Position: o.At(path...), Object: o.String(), Field: Field(path), Reason: reason, Message: message}
}

// Field writes a path the way Kubernetes does: spec.resources[0].template.
func Field(path []string) string {
	var b strings.Builder
	for _, step := range path {
		switch _, err := strconv.Atoi(step); {
		case err == nil, strings.Contains(step, "."): // an index, or a label
			b.WriteString("[" + step + "]")
		case b.Len() > 0:
			b.WriteString("." + step)
		default:
			b.WriteString(step)
		}
	}
	return b.String()
}

var steps = regexp.MustCompile(`\[[^\]]*\]|[^.\[\]]+`)

// Path takes a field apart again.
func Path(field string) []string {
	path := steps.FindAllString(field, -1)
	for i := range path {
		path[i] = strings.Trim(path[i], "[]")
	}
	return path
}

// Decode returns the object as its Go type. It fails for those whose faults are in their Set.
func Decode[T any](o *Object) (*T, error) {
	raw, err := json.Marshal(o.fields)
	if err != nil {
		return nil, err
	}
	value := new(T)
	return value, json.Unmarshal(raw, value)
}

// Set is what files hold.
type Set struct {
	Objects []*Object // of the kinds that package crds defines, in the order of the files
	Values  []*Object // Helm values of OpenChoreo's portal: documents without a kind that have backstage, or almost
	Faults  []Fault

	Descriptors []Descriptor // the files named workload.yaml that are no objects
	Files       []File       // that Load has read, in their order
	Left        []string     // folders that LoadAll has not entered
}

// File is a file that was read.
type File struct {
	Name  string `json:"file"`
	Holds int    `json:"holds"` // how many objects, Values and descriptors
}

// Descriptor is the workload.yaml of an application.
type Descriptor struct {
	File string
	*descriptor.Descriptor
}

// Find returns the object of that name; nil when there is none. The namespace of a cluster-scoped object is empty.
func (s *Set) Find(kind, namespace, name string) *Object {
	i := slices.IndexFunc(s.Objects, func(o *Object) bool {
		return o.Kind == kind && o.Namespace == namespace && o.Name == name
	})
	if i < 0 {
		return nil
	}
	return s.Objects[i]
}

// OfKind lists the objects of a kind.
func (s *Set) OfKind(kind string) []*Object {
	var all []*Object
	for _, o := range s.Objects {
		if o.Kind == kind {
			all = append(all, o)
		}
	}
	return all
}

// Add takes the objects of another set that this one does not have, and all its faults.
func (s *Set) Add(other *Set) {
	s.Faults = append(s.Faults, other.Faults...)
	s.Descriptors = append(s.Descriptors, other.Descriptors...)
	s.Files, s.Left = append(s.Files, other.Files...), append(s.Left, other.Left...)
	s.Values = append(s.Values, other.Values...)
	for _, o := range other.Objects {
		if s.Find(o.Kind, o.Namespace, o.Name) == nil {
			s.Objects = append(s.Objects, o)
		}
	}
}

// Load reads files, and the YAML files directly in folders. A document that is neither an object of OpenChoreo nor
// Values is passed over: folders also hold API descriptions and templates of other tools. Its error is about a file
// that cannot be read; faults in a file are in the set.
func Load(paths ...string) (*Set, error) { return readAll(paths, yamlFiles) }

// LoadAll is Load, and reads the folders in folders, too, but for hidden ones, those of packages of Node.js, and those
// that a link leads to.
func LoadAll(paths ...string) (*Set, error) { return readAll(paths, allYAMLFiles) }

func readAll(paths []string, list func(dir string) (files, left []string, err error)) (*Set, error) {
	set := &Set{}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		files := []string{path}
		if info.IsDir() {
			var left []string
			if files, left, err = list(path); err != nil {
				return nil, err
			}
			set.Left = append(set.Left, left...)
		}
		for _, file := range files {
			if slices.ContainsFunc(set.Files, func(f File) bool {
				return filepath.Clean(f.Name) == filepath.Clean(file)
			}) {
				continue
			}
			if err := set.load(file, !info.IsDir()); err != nil {
				return nil, err
			}
		}
	}
	return set, nil
}

// load adds what a file holds.
func (s *Set) load(file string, named bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before := len(s.Objects) + len(s.Values) + len(s.Faults)
	s.read(file, text, named)
	holds := len(s.Objects) + len(s.Values) + len(s.Faults) - before
	if holds == 0 {
		if holds, err = s.readDescriptor(file, text, named); err != nil {
			return err
		}
	}
	s.Files = append(s.Files, File{file, holds})
	return nil
}

// readDescriptor adds a descriptor, if the file is one by its name, and returns how many it has added. A file whose
// name is only almost right counts for nothing, which is a fault.
func (s *Set) readDescriptor(file string, text []byte, named bool) (int, error) {
	base := strings.ToLower(filepath.Base(file))
	if base != descriptor.Name && base != strings.TrimSuffix(descriptor.Name, ".yaml")+".yml" {
		return 0, nil
	}
	if object := kubernetes(text); object || !named && bytes.Contains(text, []byte("{{")) { // or a template
		return 0, nil
	}
	d, err := descriptor.Check(file)
	if err != nil {
		return 0, err
	}
	if filepath.Base(file) == descriptor.Name {
		s.Descriptors = append(s.Descriptors, Descriptor{file, d})
		return 1, nil
	}
	if d.Foreign() {
		return 0, nil
	}
	s.Faults = append(s.Faults, Fault{
		Position: Position{file, 1},
		Message:  "only a file named " + descriptor.Name + " counts as the descriptor of an application: rename it",
	})
	return 1, nil
}

// kubernetes tells whether a text is an object of Kubernetes, of any group.
func kubernetes(text []byte) bool {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	return yaml.Unmarshal(text, &object) == nil && object.APIVersion != "" && object.Kind != ""
}

// Read adds what the text of a file holds, as Load does for a file in a folder. name is the file's name for people.
func (s *Set) Read(name string, text []byte) { s.read(name, text, false) }

// ReadObject adds an object, as Read does for its YAML. name says for people where it comes from.
func (s *Set) ReadObject(name string, object any) error {
	text, err := yaml.Marshal(object)
	if err == nil {
		s.read(name, text, true)
	}
	return err
}

func yamlFiles(dir string) (files, left []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if isYAML(e) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("%s: %w: no YAML file in this folder", dir, fs.ErrNotExist)
	}
	return files, nil, nil
}

// allYAMLFiles lists the YAML files in a folder and below, and the folders that it has not entered.
func allYAMLFiles(dir string) (files, left []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != dir && e.IsDir() && (strings.HasPrefix(e.Name(), ".") || e.Name() == "node_modules"):
			left = append(left, path)
			return fs.SkipDir
		case e.Type()&fs.ModeSymlink != 0:
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				left = append(left, path)
			}
		case isYAML(e):
			files = append(files, path)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: %w: no YAML file in this folder or below", dir, fs.ErrNotExist)
	}
	return files, left, err
}

func isYAML(e fs.DirEntry) bool {
	ext := filepath.Ext(e.Name())
	return e.Type().IsRegular() && (ext == ".yaml" || ext == ".yml")
}

// read takes a file apart into its documents. Named says that somebody gave the file itself, not its folder.
func (s *Set) read(file string, text []byte, named bool) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	start := 0
	for i := 0; i <= len(lines); i++ {
		if i < len(lines) && !separates(lines[i]) {
			continue
		}
		s.readDocument(file, bytes.Join(lines[start:i], nil), start, named)
		start = i + 1
	}
}

func separates(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	rest = bytes.TrimSpace(rest)
	return ok && (len(rest) == 0 || rest[0] == '#')
}

const group = "openchoreo.dev/"

var (
	ours       = regexp.MustCompile(`(?m)^apiVersion: *["']?` + regexp.QuoteMeta(group))
	syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`) // the parser has no better form for it
)

func (s *Set) readDocument(file string, text []byte, offset int, named bool) {
	fault := func(line int, message string) {
		s.Faults = append(s.Faults, Fault{Position: Position{file, offset + line}, Message: message})
	}
	var document goyaml.Node
	lines := yamlline.Of(text)
	if err := goyaml.Unmarshal(text, &document); err != nil {
		if !named && !ours.Match(text) {
			return
		}
		line := 1
		if found := syntaxLine.FindStringSubmatch(err.Error()); found != nil && found[1] != "" {
			line, _ = strconv.Atoi(found[1])
		}
		fault(lines.Line(line), "not YAML: "+syntaxLine.ReplaceAllString(err.Error(), ""))
		return
	}
	if len(document.Content) == 0 || document.Content[0].Kind != goyaml.MappingNode {
		return
	}
	lines.Number(&document)
	o := &Object{file: file, node: document.Content[0], offset: offset}
	// The values are read as kubectl reads them: by YAML 1.1, where yes is true.
	asJSON, err := yaml.YAMLToJSON(text)
	if err == nil {
		err = utiljson.Unmarshal(asJSON, &o.fields)
	}
	if err != nil {
		if named || ours.Match(text) {
			fault(o.node.Line, "not YAML: "+err.Error())
		}
		return
	}
	s.readObject(o)
}

// readObject adds an object of OpenChoreo's, or those of a list, which is what kubectl get prints.
func (s *Set) readObject(o *Object) {
	version, _ := o.fields["apiVersion"].(string)
	o.Kind, _ = o.fields["kind"].(string)
	if items, ok := o.fields["items"].([]any); ok && version == "v1" && o.Kind == "List" {
		nodes, _ := child(o.node, "items")
		for i, item := range items {
			if fields, ok := item.(map[string]any); ok {
				s.readObject(&Object{file: o.file, offset: o.offset, node: nodes.Content[i], fields: fields})
			}
		}
		return
	}
	if version == "" && o.Kind == "" && ofPortal(o.fields) {
		o.Kind, o.Name = "Values", filepath.Base(o.file)
		s.Faults = append(s.Faults, o.twice(o.node, nil)...)
		s.Values = append(s.Values, o)
		return
	}
	if !strings.HasPrefix(version, group) || o.Kind == "" {
		return
	}
	if !known(version, o.Kind) {
		s.Faults = append(s.Faults, Fault{
			Position: o.At("kind"),
			Message:  fmt.Sprintf("there is no kind %q in %s", o.Kind, version),
		})
		return
	}
	if definition := definitions()[o.Kind]; definition != nil {
		s.admit(o, definition)
	}
}

// ofPortal tells whether Helm values have a mapping backstage, or one that is meant to be it.
func ofPortal(values map[string]any) bool {
	for key, value := range values {
		if _, is := value.(map[string]any); is &&
			levenshtein.Distance(strings.ToLower(key), "backstage", nil) <= 2 {
			return true
		}
	}
	return false
}

var scheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return scheme
}()

// known says whether OpenChoreo has such a kind.
func known(version, kind string) bool {
	return version == v1alpha1.GroupVersion.String() && scheme.Recognizes(v1alpha1.GroupVersion.WithKind(kind))
}

// admit adds an object, as it would be once it is in a cluster.
func (s *Set) admit(o *Object, d *definition) {
	metadata, _ := o.fields["metadata"].(map[string]any)
	o.Name, _ = metadata["name"].(string)
	if d.namespaced {
		o.Namespace, _ = metadata["namespace"].(string)
		if o.Namespace == "" {
			o.Namespace = metav1.NamespaceDefault
			if metadata != nil {
				metadata["namespace"] = o.Namespace
			}
		}
	}
	s.Faults = append(s.Faults, o.twice(o.node, nil)...)
	unknown, refused := d.admit(o.fields, nil)
	for _, field := range unknown {
		s.Faults = append(s.Faults, o.Fault(Path(field), "", "there is no such field"))
	}
	for _, refusal := range refused {
		if refusal == unasked {
			continue // it comes with others
		}
		s.Faults = append(s.Faults, o.Fault(Path(refusal.Field), "", refusal.ErrorBody()+o.quoteHint(d, refusal)))
	}
	if first := s.Find(o.Kind, o.Namespace, o.Name); first != nil && o.Name != "" {
		s.Faults = append(s.Faults, o.Fault([]string{"metadata", "name"}, "", "is already in "+first.At().String()))
		return
	}
	s.Objects = append(s.Objects, o)
}

// quoteHint says what to do about a scalar where a definition wants text; empty for other refusals.
func (o *Object) quoteHint(d *definition, refusal *field.Error) string {
	path := Path(refusal.Field)
	if refusal.Type != field.ErrorTypeTypeInvalid || !WantsText(d.structural, path) {
		return ""
	}
	if found := o.Scalars(path...); len(found) == 1 && slices.Equal(found[0].Path, path) {
		return ": " + found[0].Quote("")
	}
	return ""
}

// WantsText tells whether the schema of a custom resource wants text at a path.
func WantsText(at *schema.Structural, path []string) bool {
	for _, step := range path {
		if at == nil {
			return false
		}
		if inner, known := at.Properties[step]; known {
			at = &inner
		} else if _, err := strconv.Atoi(step); err == nil && at.Items != nil {
			at = at.Items
		} else if at.AdditionalProperties != nil && at.AdditionalProperties.Structural != nil {
			at = at.AdditionalProperties.Structural
		} else {
			return false
		}
	}
	return at != nil && at.Type == "string"
}

// twice finds keys that stand twice in one mapping: the last one would win, in silence.
func (o *Object) twice(node *goyaml.Node, path []string) []Fault {
	var faults []Fault
	first := map[string]int{}
	for i, inner := range node.Content {
		at := append(slices.Clip(path), strconv.Itoa(i))
		if node.Kind == goyaml.MappingNode {
			if i%2 == 0 {
				continue
			}
			key := node.Content[i-1]
			at = append(slices.Clip(path), key.Value)
			if line, again := first[key.Value]; again {
				faults = append(faults, Fault{
					Position: Position{o.file, o.offset + key.Line}, Object: o.String(), Field: Field(at),
					Message: fmt.Sprintf("stands twice, first in line %d", o.offset+line),
				})
				continue
			}
			first[key.Value] = key.Line
		}
		faults = append(faults, o.twice(inner, at)...)
	}
	return faults
}
