import { Code, ConnectError } from "@connectrpc/connect";

import { CommittedSchema, SizeLimitSchema } from "../gen/aipod/v1/job_pb.js";

/** A line of a job's log. level is as in Go's slog: -4 debug, 0 info, 4 warn, 8 error. */
export interface LogLine {
  level: number;
  line: string;
  time?: Date;
}

/**
 * Why a job failed, or why the pod refused it. code is a gRPC status code in lower
 * case, such as "invalid_argument"; log has the last lines of the function's log,
 * the oldest first.
 */
export class JobError extends Error {
  override readonly name = "JobError";
  readonly code: string;
  readonly log: LogLine[];

  constructor(code: string, message: string, log: LogLine[] = []) {
    super(message);
    this.code = code;
    this.log = log;
  }
}

/** The name of a code: "not_found" for 5. */
export function codeName(code: number): string {
  const name = Code[code] ?? "Unknown";
  return name.replace(/(?<=.)([A-Z])/g, "_$1").toLowerCase();
}

/** The error as callers of this module see it. */
export function asJobError(err: unknown): JobError {
  if (err instanceof JobError) {
    return err;
  }
  const e = ConnectError.from(err);
  return new JobError(codeName(e.code), e.rawMessage);
}

const answers = new Set([
  Code.InvalidArgument, Code.NotFound, Code.AlreadyExists, Code.PermissionDenied, Code.Unauthenticated,
  Code.FailedPrecondition, Code.Unimplemented,
]);

/** Whether an error is the pod's last word, and not a connection that was lost or a pod without room. */
export function isAnswer(err: unknown): boolean {
  if (err instanceof JobError) {
    return true;
  }
  const e = ConnectError.from(err);
  return answers.has(e.code) || (e.code === Code.ResourceExhausted && e.findDetails(SizeLimitSchema).length > 0);
}

/** Whether the pod says that it has no such job. */
export function isNotFound(err: unknown): boolean {
  return err instanceof ConnectError && err.code === Code.NotFound;
}

/** Where the pod wants the upload to go on, if the error says that. */
export function committedOf(err: unknown): number | undefined {
  const detail = err instanceof ConnectError ? err.findDetails(CommittedSchema)[0] : undefined;
  return detail && Number(detail.offset);
}

/** Whether the checksum of the whole payload was wrong, so that it has to be sent again. */
export function isDataLoss(err: unknown): boolean {
  return err instanceof ConnectError && err.code === Code.DataLoss;
}

/** A proxy takes no requests of this size. */
export class TooLargeError extends Error {
  override readonly name = "TooLargeError";

  constructor() {
    super("a proxy in between takes no requests of this size: see its limit for bodies, in nginx client_max_body_size");
  }
}

export function isTooLarge(err: unknown): boolean {
  return err instanceof ConnectError && err.cause instanceof TooLargeError;
}
