package userns

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestCompose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		own       int
		spans     []span
		delegated bool // by a file such as /etc/subuid
		want      []syscall.SysProcIDMap
	}{
		{"a pod without a user namespace", 1000, []span{{0, 4294967295}}, false,
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1},
				{ContainerID: 1, HostID: 100000, Size: 65536},
				{ContainerID: 65537, HostID: 1 << 31, Size: 1<<31 - 1 - 65536},
			}},
		{
			"a user whom no account has",
			3000000000,
			[]span{{0, 4294967295}},
			false,
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 3000000000, Size: 1},
				{ContainerID: 1, HostID: 100000, Size: 65536},
				{ContainerID: 65537, HostID: 1 << 31, Size: 3000000000 - 1<<31},
				{
					ContainerID: 65537 + 3000000000 - 1<<31,
					HostID:      3000000001,
					Size:        1<<31 - 1 - 65536 - (3000000000 - 1<<31),
				},
			},
		},
		{"a user among the preferred ids", 120000, []span{{0, 200000}}, false, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 120000, Size: 1}, {ContainerID: 1, HostID: 1, Size: 119999},
			{ContainerID: 120000, HostID: 120001, Size: 79999},
		}},
		{"a pod with a large user namespace", 1000, []span{{0, 1000000}}, false, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536},
			{ContainerID: 65537, HostID: 165536, Size: 834464},
		}},
		{
			"a pod with one: all of its ids but root's, so that nobody, 65534, is among them",
			1000,
			[]span{{0, 65536}},
			false,
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 1001, Size: 64535},
				{ContainerID: 64536, HostID: 1, Size: 999},
			},
		},
		{"its root", 0, []span{{0, 65536}}, false,
			[]syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: 1, Size: 65535}}},
		{"ranges of /etc/subuid", 1000, []span{{231072, 2000}, {300000, 70000}}, true,
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1},
				{ContainerID: 1, HostID: 300000, Size: 70000}, {ContainerID: 70001, HostID: 231072, Size: 2000},
			}},
		{"several that add up", 1000, []span{{231072, 600}, {300000, 700}}, true, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 300000, Size: 700},
			{ContainerID: 701, HostID: 231072, Size: 600},
		}},
		{"one of them is what is preferred elsewhere", 1000, []span{{100000, 65536}, {500000, 1000000}}, true,
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 500000, Size: 1000000},
				{ContainerID: 1000001, HostID: 100000, Size: 65536},
			}},
		{"one id", 1000, []span{{1000, 1}}, false, nil},
		{"few ids", 1000, []span{{1000, 900}}, false, nil},
		{"none", 1000, nil, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			find := inNamespace
			if test.delegated {
				find = compose
			}
			if got := find(test.own, test.spans); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestParseMap(t *testing.T) {
	t.Parallel()
	got, err := parseMap(strings.NewReader("         0       1000          1\n         1     100000      65536\n"))
	if want := []span{{0, 1}, {1, 65536}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := parseMap(strings.NewReader("0 1000\n")); err == nil {
		t.Error("a line of two numbers was taken")
	}
}

func TestParseSubordinate(t *testing.T) {
	t.Parallel()
	const file = `root:1:65535
# a comment
app:100000:65536
appx:200000:65536
1000:300000:10
app:x:10
app:10
app:-5:10
`
	got := parseSubordinate(strings.NewReader(file), []string{"1000", "app"})
	if want := []span{{100000, 65536}, {300000, 10}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	ids := IDs{users: []span{{0, 1}, {1, 65536}}, groups: []span{{0, 1000}}}
	for _, test := range []struct {
		name     string
		uid, gid int
		want     string
	}{
		{"root", 0, 0, ""},
		{"the last", 65536, 999, ""},
		{"a user", 65537, 0, "user 65537"},
		{"a group", 0, 1000, "group 1000"},
		{"both", 70000, 70000, "user 70000"},
	} {
		if got := ids.Lacks(test.uid, test.gid); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	if got := ids.String(); got != "users from 0 to 65536 and groups from 0 to 999" {
		t.Error(got)
	}
}

// Whatever the ids are, each is mapped once, root is the user itself, and the ids inside have no gap.
func FuzzCompose(f *testing.F) {
	f.Add(1000, 0, 65536, 100000, 65536)
	f.Add(0, 0, 4294967295, 0, 0)
	f.Add(120000, 1, 70000, 110000, 90000)
	f.Fuzz(func(t *testing.T, own, first1, count1, first2, count2 int) {
		const most = 1 << 32
		if own < 0 || first1 < 0 || count1 < 0 || first2 < 0 || count2 < 0 || first1 > most || count1 > most ||
			first2 > most || count2 > most || first1+count1 > first2 {
			t.Skip() // the kernel's ids are not like that, and neither do ranges of one file overlap
		}
		ids := inNamespace(own, []span{{first1, count1}, {first2, count2}})
		next := 0
		for i, m := range ids {
			if m.ContainerID != next || m.Size < 1 {
				t.Fatalf("a gap: %v", ids)
			}
			next += m.Size
			if i == 0 {
				if m.HostID != own || m.Size != 1 {
					t.Fatalf("root: %v", ids)
				}
				continue
			}
			if own >= m.HostID && own < m.HostID+m.Size || m.HostID == 0 {
				t.Fatalf("mapped twice, or root: %v", ids)
			}
		}
		if next > most+1 || ids != nil && next <= fewest {
			t.Fatalf("%d ids", next)
		}
	})
}
