package service

import (
	"context"

	"connectrpc.com/connect"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/gen/aipod/v1/aipodv1connect"
)

// jobHandler is the service aipod.v1.JobService.
type jobHandler struct {
	aipodv1connect.UnimplementedJobServiceHandler
	pod *Pod
}

func (h *jobHandler) ListFunctions(context.Context, *connect.Request[aipodv1.ListFunctionsRequest]) (*connect.Response[aipodv1.ListFunctionsResponse], error) {
	d := h.pod.pool.Describe()
	res := &aipodv1.ListFunctionsResponse{Model: d.Model, Versions: d.Versions}
	for _, f := range d.Functions {
		res.Functions = append(res.Functions, &aipodv1.Function{Name: f.Name, Doc: f.Doc})
	}
	return connect.NewResponse(res), nil
}
