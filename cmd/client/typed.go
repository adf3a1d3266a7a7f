package main

import (
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// typedFlags are the names of the flags that were on the command line: the others
// have their value from the environment, where the next command finds it, too.
type typedFlags map[string]bool

func typedFlagsOf(fs *pflag.FlagSet) typedFlags {
	typed := typedFlags{}
	fs.Visit(func(f *pflag.Flag) { typed[f.Name] = true })
	return typed
}

// arguments are the flags with which another command reaches the same pod, each
// after a space. What proves who the caller is isn't shown.
func (d *dialFlags) arguments(typed typedFlags) string {
	var b strings.Builder
	add := func(words ...string) {
		for _, w := range words {
			b.WriteString(" " + shellQuote(w))
		}
	}
	if d.addr != defaultAddr {
		add("--addr", d.addr)
	}
	if typed["protocol"] {
		add("--protocol", d.protocol)
	}
	if typed["ca"] {
		add("--ca", d.ca)
	}
	if typed["insecure"] && d.insecure {
		add("--insecure")
	}
	if typed["header"] {
		for _, line := range d.header {
			if name, _, _ := strings.Cut(line, ":"); isSecret(name) {
				line = name + ": …"
			}
			add("-H", line)
		}
	}
	return b.String()
}

// shellSafe is what no shell changes.
var shellSafe = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellQuote makes one word of a shell.
func shellQuote(word string) string {
	if shellSafe.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
