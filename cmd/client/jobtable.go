package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// printJobs prints a table of jobs.
func (a *app) printJobs(jobs []*aipodv1.Job, now time.Time) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "JOB\tFUNC\tVERSION\tSTATE\tINPUT\tPROGRESS\tAGE\tEXPIRES\n")
	for _, j := range jobs {
		expires := "-"
		if t := j.GetExpireTime(); t != nil {
			expires = "in " + age(t.AsTime().Sub(now))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			j.GetJobId(), cell(j.GetSpec().GetFunc()), cell(j.GetSpec().GetVersion()), jobState(j), jobInput(j),
			cell(jobProgress(j)), age(now.Sub(j.GetCreateTime().AsTime())), expires)
	}
	if err := w.Flush(); err != nil {
		return failf("write the jobs: %w", err)
	}
	return nil
}

// cell is text in a table.
func cell(text string) string {
	if text == "" {
		return "-"
	}
	return printable(strings.ReplaceAll(text, "\t", " "))
}

// jobState is the state with what belongs to it.
func jobState(j *aipodv1.Job) string {
	name := stateName(j.GetState())
	if name == "" {
		name = "unknown"
	}
	switch {
	case j.GetQueuePosition() > 0:
		return fmt.Sprintf("%s (position %d)", name, j.GetQueuePosition())
	case j.GetAttempt() > 1:
		return fmt.Sprintf("%s (attempt %d)", name, j.GetAttempt())
	}
	return name
}

// jobInput is how much of the input is there.
func jobInput(j *aipodv1.Job) string {
	committed := bytesText(j.GetCommitted())
	switch {
	case j.GetState() > aipodv1.State_STATE_RECEIVING && j.GetState() <= aipodv1.State_STATE_SUCCEEDED:
		return committed
	case j.GetSpec().Size != nil:
		return committed + " / " + bytesText(j.GetSpec().GetSize())
	}
	return committed + " / ?"
}

func jobProgress(j *aipodv1.Job) string {
	p := j.GetProgress()
	return progressText(p.GetDone(), p.GetTotal(), p.GetUnit(), p.GetNote())
}

// age is a duration that may be days: 5s, 3m20s, 2h3m, 4d2h.
func age(d time.Duration) string {
	d = max(d, 0)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// printJob prints all that is known of a job, but its log.
func (a *app) printJob(j *aipodv1.Job, now time.Time) error {
	var text bytes.Buffer
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&text, "%-9s %s\n", name, printable(value))
		}
	}
	at := func(name string, t *timestamppb.Timestamp) {
		if t == nil {
			return
		}
		when := t.AsTime()
		distance := age(now.Sub(when)) + " ago"
		if when.After(now) {
			distance = "in " + age(when.Sub(now))
		}
		line(name, when.Local().Format(time.DateTime)+", "+distance)
	}
	spec := j.GetSpec()
	line("job", j.GetJobId())
	line("func", spec.GetFunc())
	line("version", spec.GetVersion())
	line("kwargs", string(spec.GetKwargsJson()))
	for _, name := range slices.Sorted(maps.Keys(spec.GetMetadata())) {
		line("metadata", name+": "+spec.GetMetadata()[name])
	}
	line("state", jobState(j))
	line("input", jobInput(j))
	line("progress", jobProgress(j))
	at("created", j.GetCreateTime())
	at("started", j.GetStartTime())
	at("ended", j.GetEndTime())
	at("expires", j.GetExpireTime())
	if failed := j.GetFailed(); failed != nil {
		line("error", connect.Code(failed.GetCode()).String()+": "+failed.GetMessage())
	}
	if done := j.GetDone(); done != nil {
		line("result", doneText(done))
	}
	if _, err := text.WriteTo(a.stdout); err != nil {
		return failf("write the job: %w", err)
	}
	return nil
}

// resultWidth is how much of a result is printed to describe a job, in bytes.
const resultWidth = 200

// doneText is a result in a line.
func doneText(done *aipodv1.Done) string {
	var text bytes.Buffer
	switch {
	case len(done.GetResultJson()) == 0:
		return bytesText(done.GetOutputSize()) + " of output"
	case len(done.GetResultJson()) > resultWidth, json.Compact(&text, done.GetResultJson()) != nil:
		return bytesText(int64(len(done.GetResultJson()))) + " of JSON"
	}
	return text.String()
}
