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
		name  string
		own   int
		spans []span
		want  []syscall.SysProcIDMap
	}{
		{"a pod without a user namespace", 1000, []span{{0, 4294967295}},
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1},
				{ContainerID: 1, HostID: 100000, Size: 65536},
			}},
		{"a user among the preferred ids", 120000, []span{{0, 200000}}, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 120000, Size: 1}, {ContainerID: 1, HostID: 1, Size: 65536},
		}},
		{"a pod with one: all of its ids but root's, so that nobody, 65534, is among them", 1000, []span{{0, 65536}},
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 1001, Size: 64535},
				{ContainerID: 64536, HostID: 1, Size: 999},
			}},
		{"its root", 0, []span{{0, 65536}},
			[]syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: 1, Size: 65535}}},
		{"ranges of /etc/subuid", 1000, []span{{231072, 2000}, {300000, 70000}},
			[]syscall.SysProcIDMap{
				{ContainerID: 0, HostID: 1000, Size: 1},
				{ContainerID: 1, HostID: 300000, Size: 65536},
			}},
		{"several that add up", 1000, []span{{231072, 600}, {300000, 700}}, []syscall.SysProcIDMap{
			{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 300000, Size: 700},
			{ContainerID: 701, HostID: 231072, Size: 600},
		}},
		{"one id", 1000, []span{{1000, 1}}, nil},
		{"few ids", 1000, []span{{1000, 900}}, nil},
		{"none", 1000, nil, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := compose(test.own, test.spans); !slices.Equal(got, test.want) {
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
		ids := compose(own, []span{{first1, count1}, {first2, count2}})
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
		if next > wanted+1 || ids != nil && next <= fewest {
			t.Fatalf("%d ids", next)
		}
	})
}
