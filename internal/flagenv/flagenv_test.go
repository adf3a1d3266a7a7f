package flagenv

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestBind(t *testing.T) {
	type values struct {
		Addr    string
		Max     Size
		Wait    time.Duration
		Verbose bool
		Header  []string
	}
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		want values
		err  string
	}{
		{name: "defaults", want: values{Addr: "here", Max: 64 << 20}},
		{
			name: "environment",
			env: map[string]string{
				"AIPOD_ADDR": "there", "AIPOD_MAX_MESSAGE": "2GiB", "AIPOD_WAIT": "3s", "AIPOD_VERBOSE": "true",
				"AIPOD_HEADER": "a: 1\nb: 2,3\n",
			},
			want: values{Addr: "there", Max: 2 << 30, Wait: 3 * time.Second, Verbose: true, Header: []string{"a: 1", "b: 2,3"}},
		},
		{
			name: "flags win, even over what does not parse",
			args: []string{"--addr=flag", "--header=c: 3", "--max-message", "1KiB", "--wait=1s"},
			env:  map[string]string{"AIPOD_ADDR": "there", "AIPOD_HEADER": "a: 1", "AIPOD_WAIT": "long"},
			want: values{Addr: "flag", Max: 1024, Wait: time.Second, Header: []string{"c: 3"}},
		},
		{name: "empty counts as not set", env: map[string]string{"AIPOD_ADDR": "", "AIPOD_WAIT": ""}, want: values{Addr: "here", Max: 64 << 20}},
		{
			name: "bad duration",
			env:  map[string]string{"AIPOD_WAIT": "long"},
			err:  `invalid value "long" of the environment variable AIPOD_WAIT: time: invalid duration "long"`,
		},
		{
			name: "bad size",
			env:  map[string]string{"AIPOD_MAX_MESSAGE": "many"},
			err:  `invalid value "many" of the environment variable AIPOD_MAX_MESSAGE: not a size: write it like 64MiB, 1.5GiB or 1000000`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := values{Max: 64 << 20}
			fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
			fs.SetOutput(io.Discard)
			fs.StringVar(&got.Addr, "addr", "here", "where")
			fs.Var(&got.Max, "max-message", "how much")
			fs.DurationVar(&got.Wait, "wait", 0, "how long")
			fs.BoolVar(&got.Verbose, "verbose", false, "say more")
			fs.StringArrayVar(&got.Header, "header", nil, "add this")
			apply := Bind(fs, "AIPOD", func(name string) (string, bool) {
				value, ok := test.env[name]
				return value, ok
			})
			if err := fs.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			err := apply()
			if test.err != "" {
				var bad *Error
				if !errors.As(err, &bad) || err.Error() != test.err {
					t.Fatalf("apply: %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			usage := fs.FlagUsages()
			for _, want := range []string{"[$AIPOD_ADDR]", "[$AIPOD_MAX_MESSAGE] (default 64MiB)"} {
				if !strings.Contains(usage, want) {
					t.Errorf("the help lacks %s:\n%s", want, usage)
				}
			}
		})
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1023": 1023, "1KiB": 1024, "1025": 1025, "64MiB": 64 << 20, "1.5GiB": 3 << 29,
		"64 mib": 64 << 20, "1MB": 1e6, "7EiB": 7 << 60, "1073740800": 1<<30 - 1024,
	} {
		var s Size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%q reads %d (%v), want %d", text, s, err, want)
		}
		var again Size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q prints %q, which reads %d (%v)", text, s.String(), again, err)
		}
	}
	for n, want := range map[Size]string{0: "0", 1000: "1000", 64 << 20: "64MiB", 3 << 29: "1536MiB", math.MaxInt64: "9223372036854775807"} {
		if got := n.String(); got != want {
			t.Errorf("%d prints %q, want %q", int64(n), got, want)
		}
	}
	for _, text := range []string{"", "-1", "MiB", "many", "9EiB", "99999999EiB"} {
		var s Size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for the size %d", text, s)
		}
	}
}
