import { render } from "preact";

import { App } from "./app.js";
import { currentLang, setLang } from "./i18n.js";

setLang(currentLang());
render(<App />, document.getElementById("page")!);
